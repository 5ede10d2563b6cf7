// What the CPU and CUDA kernels of noisy_points share: the checks, and those of noisy_reduce.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "check.h"

namespace fastxai {

// Numbers that count samples and the like must fit a word of a random counter.
constexpr int64_t kMostSamples = int64_t{1} << 31;
// The number of an example beyond so many, plus that of one in its batch, might not fit.
constexpr int64_t kMostExamples = int64_t{1} << 62;

struct NoisyArguments {
  const char* op;
  const Tensor& input;
  const std::optional<Tensor>& baseline;
  double stdev;
  int64_t stream, samples, example, first, last;
};

inline void check_noisy(const NoisyArguments& of) {
  const Argument input_arg{of.op, "input", of.input};
  check_floating(input_arg);
  check_dim(input_arg, 1, "[B, *F]");
  if (of.baseline) {
    const Argument baseline_arg{of.op, "baseline", *of.baseline};
    check_dtype(baseline_arg, of.input.scalar_type());
    check_device(baseline_arg, input_arg);
    check_dim(baseline_arg, 1, "[K, *F]");
    Shape shape = shape_of(of.input);
    shape[0] = std::max<int64_t>(1, of.baseline->size(0));
    check_shape(baseline_arg, shape);
  }
  const auto refuse = [&](const char* expected, const auto& got) {
    std::ostringstream message;
    message << of.op << ": expected " << expected << ", got " << got;
    throw std::runtime_error(message.str());
  };
  if (!(of.stdev >= 0)) refuse("stdev of at least 0", of.stdev);
  if (of.stream < 0 || of.stream >= 65536) refuse("stream from 0 to 65535", of.stream);
  if (of.example < 0 || of.example >= kMostExamples) {
    refuse("example from 0 to 4611686018427387903", of.example);
  }
  if (of.samples < 0 || of.samples >= kMostSamples) {
    refuse("samples from 0 to 2147483647", of.samples);
  }
  check_range(of.op, of.first, of.last, of.samples);
}

}  // namespace fastxai
