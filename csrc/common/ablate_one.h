// What the CPU and CUDA kernels of ablate_one share: the checks.
#pragma once

#include "check.h"

namespace fastxai {

inline void check_ablate_one(const Tensor& input, const Tensor& baseline, const Tensor& source,
                             const Tensor& positions, const Tensor& offsets, int64_t first,
                             int64_t last) {
  const char* op = "ablate_one";
  const Argument input_arg{op, "input", input};
  const Argument baseline_arg{op, "baseline", baseline};
  const Argument source_arg{op, "source", source};
  const Argument positions_arg{op, "positions", positions};
  const Argument offsets_arg{op, "offsets", offsets};
  check_dim(input_arg, 1, "[B, *F]");
  check_dtype(baseline_arg, input.scalar_type());
  check_device(baseline_arg, input_arg);
  check_dim(baseline_arg, 1, "[R, *F]");
  if (!std::ranges::equal(features_of(baseline), features_of(input))) {
    Shape shape = shape_of(input);
    shape[0] = baseline.size(0);
    check_shape(baseline_arg, shape);
  }
  const auto check_table = [&](const Argument& argument, const char* layout) {
    check_dtype(argument, ScalarType::Long);
    check_device(argument, input_arg);
    check_matrix(argument, layout);
  };
  check_table(source_arg, "[G, B] or [1, B]");
  check_table(positions_arg, "[B, P] or [1, P]");
  check_table(offsets_arg, "[B, G + 1] or [1, G + 1]");
  const int64_t batch = input.size(0);
  const int64_t groups = std::max<int64_t>(offsets.size(1), 1) - 1;
  check_one_or_each(positions_arg, batch, {positions.size(1)});
  check_one_or_each(offsets_arg, batch, {groups + 1});
  check_one_or_each(source_arg, groups, {batch});
  check_range(op, first, last, groups);
}

}  // namespace fastxai
