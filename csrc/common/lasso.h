// What the CPU and CUDA kernels of lasso share: the checks and the result's memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "check.h"

namespace fastxai {

inline void check_not_negative(const char* op, const char* name, double value) {
  if (value >= 0) return;
  std::ostringstream message;
  message << op << ": expected " << name << " of at least 0, got " << value;
  throw std::runtime_error(message.str());
}

inline void check_lasso(const Tensor& gram, const Tensor& rhs, double alpha, double tolerance,
                        int64_t max_sweeps) {
  const char* op = "lasso";
  const Argument gram_arg{op, "gram", gram};
  const Argument rhs_arg{op, "rhs", rhs};
  check_dtype(gram_arg, ScalarType::Double);
  if (gram.dim() != 3 || gram.size(1) != gram.size(2)) {
    fail(gram_arg, "of shape [P, M, M], got ", shape_name(shape_of(gram)));
  }
  check_dtype(rhs_arg, ScalarType::Double);
  check_device(rhs_arg, gram_arg);
  if (rhs.dim() != 3 || rhs.size(0) != gram.size(0) || rhs.size(1) != gram.size(1)) {
    fail(rhs_arg, "of shape [", gram.size(0), ", ", gram.size(1), ", C], got ",
         shape_name(shape_of(rhs)));
  }
  check_not_negative(op, "alpha", alpha);
  check_not_negative(op, "tolerance", tolerance);
  check_not_negative(op, "max_sweeps", static_cast<double>(max_sweeps));
}

inline Tensor empty_lasso(const Tensor& rhs) {
  return torch::stable::new_empty(rhs, shape_of(rhs));
}

}  // namespace fastxai
