// The tables that ops about groups of features are given.
#pragma once

#include <cstdint>

namespace fastxai {

// A table with one row for each, or one for all.
struct Table {
  const int64_t* data;
  int64_t columns;
  bool one_for_all;

  const int64_t* row(int64_t index) const { return data + (one_for_all ? 0 : index * columns); }
};

// A contiguous matrix of int64.
template <class Tensor>
Table table_of(const Tensor& tensor) {
  return {static_cast<const int64_t*>(tensor.const_data_ptr()), tensor.size(1),
          tensor.size(0) == 1};
}

}  // namespace fastxai
