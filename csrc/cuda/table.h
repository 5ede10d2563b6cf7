// The tables that ops about groups of features are given.
#pragma once

#include "launch.h"

namespace fastxai::cuda {

// A table with one row for each, or one for all.
struct Table {
  const int64_t* data;
  int64_t columns;
  bool one_for_all;

  __device__ const int64_t* row(int64_t index) const {
    return data + (one_for_all ? 0 : index * columns);
  }
};

// A contiguous matrix of int64.
inline Table table_of(const Tensor& tensor) {
  return {data<int64_t>(tensor), tensor.size(1), tensor.size(0) == 1};
}

}  // namespace fastxai::cuda
