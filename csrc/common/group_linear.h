// What the CPU and CUDA kernels of group_linear share: the checks and the result's memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "check.h"

namespace fastxai {

inline void check_group_linear(const Tensor& values, const Tensor& positions, const Tensor& offsets,
                               const Tensor& weight) {
  const char* op = "group_linear";
  const Argument values_arg{op, "values", values};
  const Argument positions_arg{op, "positions", positions};
  const Argument offsets_arg{op, "offsets", offsets};
  const Argument weight_arg{op, "weight", weight};
  check_floating(values_arg);
  check_matrix(values_arg, "[B, P]");
  const auto check_table = [&](const Argument& argument, const char* layout) {
    check_dtype(argument, ScalarType::Long);
    check_device(argument, values_arg);
    check_matrix(argument, layout);
  };
  check_table(positions_arg, "[B, P] or [1, P]");
  check_table(offsets_arg, "[B, G + 1] or [1, G + 1]");
  check_one_or_each(positions_arg, values.size(0), {values.size(1)});
  check_one_or_each(offsets_arg, values.size(0), {std::max<int64_t>(offsets.size(1), 1)});
  check_dtype(weight_arg, values.scalar_type());
  check_device(weight_arg, values_arg);
  check_matrix(weight_arg, "[H, F]");
}

inline Tensor empty_group_linear(const Tensor& values, const Tensor& offsets,
                                 const Tensor& weight) {
  return torch::stable::new_empty(values,
                                  Shape{offsets.size(1) - 1, values.size(0), weight.size(0)});
}

}  // namespace fastxai
