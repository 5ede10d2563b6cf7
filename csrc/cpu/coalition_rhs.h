// The loops of coalition_rhs, without torch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/float16.h"
#include "../common/isa.h"

namespace fastxai {

// Outputs that are added up side by side: the least of 1, 4 and 16 that holds them all, or 16.
inline int rhs_width(int64_t outputs) { return outputs == 1 ? 1 : outputs <= 4 ? 4 : 16; }

// One word of 64 players of rows [begin, end), and `columns` outputs next to each other.
template <class T>
struct RhsBlock {
  const int64_t* bits;  // of row n: bits[n * words]
  int64_t words;
  const double* weights;
  const T* values;  // of row n: values[n * outputs + c], c < columns
  int64_t outputs;
  int64_t begin;
  int64_t end;
  int64_t players;
  int64_t columns;
};

// sums[j * Width + c] = sum over the rows that hold player j of weights[n] * values[n, c].
//
// A row is added once for every four players, to the entry of a table that their four bits name;
// a player's sum is that of the eight entries that hold it (the "four Russians": Arlazarov, Dinic,
// Kronrod and Faradzhev, 1970).
template <int Width, class T>
FASTXAI_INLINE void sum_block(double* sums, const RhsBlock<T>& block) {
  double table[16][16][Width] = {};
  double value[Width] = {};
  const int64_t nibbles = (block.players + 3) / 4;
  const int64_t columns = block.columns;
  for (int64_t n = block.begin; n < block.end; ++n) {
    const T* row = block.values + n * block.outputs;
    const double weight = block.weights[n];
    if (columns == Width) {
      for (int c = 0; c < Width; ++c) value[c] = weight * static_cast<double>(widen(row[c]));
    } else {
      for (int64_t c = 0; c < columns; ++c) value[c] = weight * static_cast<double>(widen(row[c]));
    }
    const auto word = static_cast<uint64_t>(block.bits[n * block.words]);
    for (int64_t q = 0; q < nibbles; ++q) {
      double* entry = table[q][word >> (4 * q) & 15];
      for (int c = 0; c < Width; ++c) entry[c] += value[c];
    }
  }
  for (int64_t j = 0; j < block.players; ++j) {
    double* sum = sums + j * Width;
    std::fill_n(sum, Width, 0.0);
    for (int pattern = 0; pattern < 16; ++pattern) {
      if ((pattern >> (j % 4) & 1) == 0) continue;
      for (int c = 0; c < Width; ++c) sum[c] += table[j / 4][pattern][c];
    }
  }
}

#define FASTXAI_RHS_LEAVES(T)                                                      \
  FASTXAI_CLONES static void rhs_leaf_1(double* sums, const RhsBlock<T>& block) {  \
    sum_block<1>(sums, block);                                                     \
  }                                                                                \
  FASTXAI_CLONES static void rhs_leaf_4(double* sums, const RhsBlock<T>& block) {  \
    sum_block<4>(sums, block);                                                     \
  }                                                                                \
  FASTXAI_CLONES static void rhs_leaf_16(double* sums, const RhsBlock<T>& block) { \
    sum_block<16>(sums, block);                                                    \
  }                                                                                \
  static inline void rhs_leaf(int width, double* sums, const RhsBlock<T>& block) { \
    if (width == 1) return rhs_leaf_1(sums, block);                                \
    if (width == 4) return rhs_leaf_4(sums, block);                                \
    rhs_leaf_16(sums, block);                                                      \
  }
FASTXAI_RHS_LEAVES(Half)
FASTXAI_RHS_LEAVES(BFloat16)
FASTXAI_RHS_LEAVES(float)
FASTXAI_RHS_LEAVES(double)
#undef FASTXAI_RHS_LEAVES

}  // namespace fastxai
