// What the CPU and CUDA kernels of perturb share: the checks.
#pragma once

#include "check.h"

namespace fastxai {

inline void check_perturb(const Tensor& input, const Tensor& baseline, const Tensor& bits,
                          const Tensor& mask, int64_t first, int64_t last) {
  const char* op = "perturb";
  const Argument input_arg{op, "input", input};
  const Argument baseline_arg{op, "baseline", baseline};
  const Argument bits_arg{op, "bits", bits};
  const Argument mask_arg{op, "mask", mask};
  check_dim(input_arg, 1, "[B, *F]");
  check_dtype(baseline_arg, input.scalar_type());
  check_device(baseline_arg, input_arg);
  check_dim(baseline_arg, 2, "[B, K, *F] or [1, K, *F]");
  check_one_or_each(baseline_arg, input.size(0), {baseline.size(1)}, features_of(input));
  check_dtype(bits_arg, ScalarType::Long);
  check_device(bits_arg, input_arg);
  check_matrix(bits_arg, "[N, W]");
  check_dtype(mask_arg, ScalarType::Int);
  check_device(mask_arg, input_arg);
  check_one_or_each(mask_arg, input.size(0), {}, features_of(input));
  check_range(op, first, last, bits.size(0) * baseline.size(1));
}

}  // namespace fastxai
