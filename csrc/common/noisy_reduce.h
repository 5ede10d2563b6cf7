// What the CPU and CUDA kernels of noisy_reduce share: the checks and the result's memory.
#pragma once

#include "noisy_points.h"

namespace fastxai {

inline void check_noisy_reduce(const std::optional<Tensor>& acc, const Tensor& grads,
                               const NoisyArguments& of) {
  const Argument grads_arg{of.op, "grads", grads};
  const Argument input_arg{of.op, "input", of.input};
  check_noisy(of);
  check_dtype(grads_arg, of.input.scalar_type());
  check_device(grads_arg, input_arg);
  Shape shape = shape_of(of.input);
  shape.insert(shape.begin(), of.last - of.first);
  check_shape(grads_arg, shape);
  if (acc) {
    const Argument acc_arg{of.op, "acc", *acc};
    check_dtype(acc_arg, accumulation_dtype(of.input.scalar_type()));
    check_device(acc_arg, input_arg);
    check_shape(acc_arg, shape_of(of.input));
  }
}

inline Tensor empty_noisy_reduce(const Tensor& input) {
  return torch::stable::new_empty(input, shape_of(input), accumulation_dtype(input.scalar_type()));
}

}  // namespace fastxai
