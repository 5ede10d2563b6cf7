// The loops of group_linear, without torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../common/isa.h"
#include "table.h"

namespace fastxai {

template <class T>
struct GroupLinear {
  T* out;           // [groups, examples, outputs]
  const T* values;  // [examples, P]
  Table positions;  // [example, P]
  Table offsets;    // [example, groups + 1]
  const T* weight;  // [outputs, features]
  int64_t groups, examples, outputs, features;
  int64_t first, last;  // all positions in use are in [first, last)
};

// A column of a few rows of the weight: one cache line.
template <class T>
struct alignas(64) Column {
  static constexpr int kSize = 64 / sizeof(T);
  T element[kSize];
};

// A unit of work is a Column's outputs for so many examples. The weight is transposed once for all
// of them: sixteen are enough for that not to matter.
constexpr int64_t kExamplesOfUnit = 16;

// Examples that share their positions are summed so many at a time.
constexpr int kExamplesTogether = 4;

// Long sums are added in parts of so many terms, which keeps rounding errors small.
constexpr int64_t kTermsOfPart = 256;

template <class T>
int64_t columns_of(const GroupLinear<T>& op) {
  constexpr int64_t kSize = Column<T>::kSize;
  return (op.outputs + kSize - 1) / kSize;
}

template <class T>
int64_t example_blocks_of(const GroupLinear<T>& op) {
  return (op.examples + kExamplesOfUnit - 1) / kExamplesOfUnit;
}

// The least and the greatest of the positions in use; `first` is greater if there are none.
struct PositionRange {
  int64_t first, last;
  bool valid;  // false if an offset is out of range
};

FASTXAI_CLONES static PositionRange position_range(const Table& positions, const Table& offsets,
                                                   int64_t examples) {
  const bool shared = positions.one_for_all && offsets.one_for_all;
  int64_t first = std::numeric_limits<int64_t>::max(), last = std::numeric_limits<int64_t>::min();
  for (int64_t b = 0; b < (shared ? 1 : examples); ++b) {
    const int64_t* bounds = offsets.row(b);
    const int64_t* position = positions.row(b);
    for (int64_t g = 0; g + 1 < offsets.columns; ++g) {
      const int64_t begin = bounds[g], end = bounds[g + 1];
      const bool inside = std::min(begin, end) >= 0 && std::max(begin, end) <= positions.columns;
      if (!inside) return {0, 0, false};
      for (int64_t i = begin; i < end; ++i) {
        first = std::min(first, position[i]);
        last = std::max(last, position[i]);
      }
    }
  }
  return {first, last, true};
}

#if __has_builtin(__builtin_shufflevector)
// to[k][j] = from[j][k] for j, k < 4; rows of `to` are a Column apart.
template <class T>
FASTXAI_INLINE void transpose_4x4(Column<T>* to, int row, const T* const from[4]) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  Four a, b, c, d;
  std::memcpy(&a, from[0], sizeof a);
  std::memcpy(&b, from[1], sizeof b);
  std::memcpy(&c, from[2], sizeof c);
  std::memcpy(&d, from[3], sizeof d);
  const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
  std::memcpy(to[0].element + row, &a, sizeof a);
  std::memcpy(to[1].element + row, &b, sizeof b);
  std::memcpy(to[2].element + row, &c, sizeof c);
  std::memcpy(to[3].element + row, &d, sizeof d);
}
#else
template <class T>
FASTXAI_INLINE void transpose_4x4(Column<T>* to, int row, const T* const from[4]) {
  for (int k = 0; k < 4; ++k) {
    for (int j = 0; j < 4; ++j) to[k].element[row + j] = from[j][k];
  }
}
#endif

// The columns of outputs [output, output + kSize) for the features in use. Beyond the last output
// it repeats: what comes of that is not kept.
template <class T>
FASTXAI_INLINE void transpose_weight(Column<T>* columns, const GroupLinear<T>& op, int64_t output) {
  constexpr int kSize = Column<T>::kSize;
  constexpr int kTile = 16;  // a cache line of float
  const T* rows[kSize];
  for (int j = 0; j < kSize; ++j) {
    rows[j] = op.weight + std::min(output + j, op.outputs - 1) * op.features + op.first;
  }
  const int64_t count = op.last - op.first;
  int64_t f = 0;
  for (; f + kTile <= count; f += kTile) {
    for (int j = 0; j < kSize; j += 4) {
      for (int i = 0; i < kTile; i += 4) {
        const T* const from[4] = {rows[j] + f + i, rows[j + 1] + f + i, rows[j + 2] + f + i,
                                  rows[j + 3] + f + i};
        transpose_4x4(columns + f + i, j, from);
      }
    }
  }
  for (; f < count; ++f) {
    for (int j = 0; j < kSize; ++j) columns[f].element[j] = rows[j][f];
  }
}

// Outputs [output, output + kSize) of N examples from `example` on, which share their positions.
template <int N, class T>
FASTXAI_INLINE void sum_groups(const GroupLinear<T>& op, const Column<T>* columns, int64_t output,
                               int64_t example) {
  constexpr int kSize = Column<T>::kSize;
  typedef T Vector __attribute__((vector_size(32)));
  const int64_t* positions = op.positions.row(example);
  const int64_t* offsets = op.offsets.row(example);
  const int64_t size = op.positions.columns;
  const T* values = op.values + example * size;
  const int64_t kept = std::min<int64_t>(kSize, op.outputs - output);
  for (int64_t g = 0; g < op.groups; ++g) {
    Vector sum[N][2] = {};
    for (int64_t i = offsets[g]; i < offsets[g + 1];) {
      const int64_t stop = std::min(i + kTermsOfPart, offsets[g + 1]);
      Vector part[N][2] = {};
      for (; i < stop; ++i) {
        const T* column = columns[positions[i] - op.first].element;
        Vector first, second;
        std::memcpy(&first, column, sizeof first);
        std::memcpy(&second, column + kSize / 2, sizeof second);
        for (int n = 0; n < N; ++n) {
          const T value = values[n * size + i];
          part[n][0] += value * first;
          part[n][1] += value * second;
        }
      }
      for (int n = 0; n < N; ++n) {
        sum[n][0] += part[n][0];
        sum[n][1] += part[n][1];
      }
    }
    for (int n = 0; n < N; ++n) {
      T* out = op.out + (g * op.examples + example + n) * op.outputs + output;
      if (kept == kSize) {  // of a size that the compiler knows
        std::memcpy(out, sum[n], sizeof sum[n]);
      } else {
        std::memcpy(out, sum[n], kept * sizeof(T));
      }
    }
  }
}

// Units [begin, end); `columns` is room for the features in use.
template <class T>
FASTXAI_INLINE void group_linear_units(const GroupLinear<T>& op, Column<T>* columns, int64_t begin,
                                       int64_t end) {
  const int64_t blocks = example_blocks_of(op);
  const bool shared = op.positions.one_for_all && op.offsets.one_for_all;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t output = unit / blocks * Column<T>::kSize;
    if (unit == begin || unit % blocks == 0) transpose_weight(columns, op, output);
    int64_t example = unit % blocks * kExamplesOfUnit;
    const int64_t stop = std::min(example + kExamplesOfUnit, op.examples);
    for (; shared && example + kExamplesTogether <= stop; example += kExamplesTogether) {
      sum_groups<kExamplesTogether>(op, columns, output, example);
    }
    for (; example < stop; ++example) sum_groups<1>(op, columns, output, example);
  }
}

#define FASTXAI_GROUP_LINEAR_LEAF(T)                                                         \
  FASTXAI_CLONES static void group_linear_leaf(const GroupLinear<T>& op, Column<T>* columns, \
                                               int64_t begin, int64_t end) {                 \
    group_linear_units(op, columns, begin, end);                                             \
  }
FASTXAI_GROUP_LINEAR_LEAF(float)
FASTXAI_GROUP_LINEAR_LEAF(double)
#undef FASTXAI_GROUP_LINEAR_LEAF

}  // namespace fastxai
