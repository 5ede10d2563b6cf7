// What the CPU and CUDA kernels of coalition_rhs share: the checks and the result's memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "coalitions.h"

namespace fastxai {

inline void check_coalition_rhs(const Tensor& bits, int64_t players, const Tensor& weights,
                                const Tensor& values) {
  const char* op = "coalition_rhs";
  const Argument values_arg{op, "values", values};
  check_weighted_coalitions(op, bits, players, weights);
  check_floating(values_arg);
  check_device(values_arg, {op, "bits", bits});
  if (values.dim() != 2 || values.size(0) != bits.size(0)) {
    fail(values_arg, "of shape [", bits.size(0), ", C], got ", shape_name(shape_of(values)));
  }
}

inline Tensor empty_coalition_rhs(int64_t players, const Tensor& weights, const Tensor& values) {
  return torch::stable::new_empty(weights, Shape{players, values.size(1)});
}

}  // namespace fastxai
