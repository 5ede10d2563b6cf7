// What the CPU and CUDA kernels of path_points share: the checks and the result's memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "check.h"

namespace fastxai {

inline void check_path_points(const Tensor& input, const Tensor& baseline, const Tensor& alphas) {
  const char* op = "path_points";
  const Argument input_arg{op, "input", input};
  const Argument baseline_arg{op, "baseline", baseline};
  check_floating(input_arg);
  check_dim(input_arg, 1, "[B, *F]");
  check_dtype(baseline_arg, input.scalar_type());
  check_device(baseline_arg, input_arg);
  const Shape shape = shape_of(input);
  Shape one = shape;
  one[0] = 1;
  const Shape got = shape_of(baseline);
  if (got != shape && got != one) {
    fail(baseline_arg, "of shape ", shape_name(shape), " or ", shape_name(one), ", got ",
         shape_name(got));
  }
  check_steps({op, "alphas", alphas}, input_arg);
}

}  // namespace fastxai
