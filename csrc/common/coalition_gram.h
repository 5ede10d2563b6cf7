// What the CPU and CUDA kernels of coalition_gram share: the checks and the result's memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "coalitions.h"

namespace fastxai {

inline void check_coalition_gram(const Tensor& bits, int64_t players, const Tensor& weights) {
  check_weighted_coalitions("coalition_gram", bits, players, weights);
}

inline Tensor empty_coalition_gram(int64_t players, const Tensor& weights) {
  return torch::stable::new_empty(weights, Shape{players, players});
}

}  // namespace fastxai
