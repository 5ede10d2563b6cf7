// What the CPU and CUDA kernels of coalitions share, and what all ops on coalitions check.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "check.h"

namespace fastxai {

inline int64_t coalition_words(int64_t players) { return (players + 63) / 64; }

inline void check_players(const char* op, int64_t players) {
  if (players < 1 || players > 16777216) {
    throw std::runtime_error(std::string(op) + ": expected players from 1 to 16777216, got " +
                             std::to_string(players));
  }
}

// bits [N, W] and the weight of each row.
inline void check_weighted_coalitions(const char* op, const Tensor& bits, int64_t players,
                                      const Tensor& weights) {
  const Argument bits_arg{op, "bits", bits};
  const Argument weights_arg{op, "weights", weights};
  check_players(op, players);
  check_dtype(bits_arg, ScalarType::Long);
  const int64_t words = coalition_words(players);
  if (bits.dim() != 2 || bits.size(1) != words) {
    fail(bits_arg, "of shape [N, ", words, "], got ", shape_name(shape_of(bits)));
  }
  check_dtype(weights_arg, ScalarType::Double);
  check_device(weights_arg, bits_arg);
  check_shape(weights_arg, {bits.size(0)});
}

inline void check_coalitions(int64_t players, const Tensor& sizes, const Tensor& ranks) {
  const char* op = "coalitions";
  const Argument sizes_arg{op, "sizes", sizes};
  const Argument ranks_arg{op, "ranks", ranks};
  check_players(op, players);
  check_dtype(sizes_arg, ScalarType::Long);
  if (sizes.dim() != 1) {
    fail(sizes_arg, "of shape [N], got ", shape_name(shape_of(sizes)));
  }
  check_dtype(ranks_arg, ScalarType::Long);
  check_device(ranks_arg, sizes_arg);
  check_shape(ranks_arg, shape_of(sizes));
}

inline Tensor empty_coalitions(int64_t players, const Tensor& sizes) {
  const Shape shape{sizes.size(0), coalition_words(players)};
  return torch::stable::new_empty(sizes, shape);
}

}  // namespace fastxai
