// What the CPU and CUDA kernels of path_reduce share: the checks and the result's memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "check.h"

namespace fastxai {

inline void check_path_reduce(const std::optional<Tensor>& acc, const Tensor& grads,
                              const Tensor& weights) {
  const char* op = "path_reduce";
  const Argument grads_arg{op, "grads", grads};
  const Argument weights_arg{op, "weights", weights};
  check_floating(grads_arg);
  check_dim(grads_arg, 2, "[S, B, *F]");
  check_steps(weights_arg, grads_arg);
  check_shape(weights_arg, {grads.size(0)});
  if (acc) {
    const Argument acc_arg{op, "acc", *acc};
    check_dtype(acc_arg, accumulation_dtype(grads.scalar_type()));
    check_device(acc_arg, grads_arg);
    const Shape shape = shape_of(grads);
    check_shape(acc_arg, Shape(shape.begin() + 1, shape.end()));
  }
}

inline Tensor empty_path_reduce(const Tensor& grads) {
  const Shape shape = shape_of(grads);
  return torch::stable::new_empty(grads, Shape(shape.begin() + 1, shape.end()),
                                  accumulation_dtype(grads.scalar_type()));
}

// True where each step's [B, *F] is contiguous, whatever the stride from step to step: a chunk of a
// larger tensor, or one gradient expanded over all steps, need not be copied.
inline bool steps_are_contiguous(const Tensor& grads) {
  const auto sizes = grads.sizes();
  const auto strides = grads.strides();
  int64_t expected = 1;
  for (int64_t d = grads.dim() - 1; d > 0; --d) {
    if (sizes[d] != 1 && strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

}  // namespace fastxai
