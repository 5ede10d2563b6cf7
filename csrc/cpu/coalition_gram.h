// The loops of coalition_gram, without torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "../common/isa.h"

namespace fastxai {

// Rows that share a weight: rows [begin, end) of WeightClasses::rows.
struct WeightClass {
  double weight;
  int64_t begin;
  int64_t end;
};

// The rows by weight, in rising order. Which rows share a weight, and the order of the classes, do
// not depend on the order of the rows.
struct WeightClasses {
  std::vector<int64_t> rows;
  std::vector<WeightClass> classes;
};

// Whole numbers in the order of the weights, NaNs included.
inline uint64_t sort_key(double weight) {
  uint64_t bits;
  std::memcpy(&bits, &weight, sizeof bits);
  return bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}

// For any number of different weights.
inline WeightClasses classes_by_sorting(const double* weights, int64_t n) {
  std::vector<std::pair<uint64_t, int64_t>> keys(n);
  for (int64_t row = 0; row < n; ++row) keys[row] = {sort_key(weights[row]), row};
  std::sort(keys.begin(), keys.end());
  WeightClasses result;
  result.rows.resize(n);
  for (int64_t i = 0; i < n; ++i) {
    result.rows[i] = keys[i].second;
    if (i == 0 || keys[i].first != keys[i - 1].first) {
      result.classes.push_back({weights[keys[i].second], i, i});
    }
    result.classes.back().end = i + 1;
  }
  return result;
}

// A hash table of so many slots finds the classes where there are few, in one pass.
constexpr int kSlotBits = 12;
constexpr int64_t kMostHashed = 1024;

// The class of each row, numbered as they come; false where there are more than kMostHashed.
inline bool number_classes(const double* weights, int64_t n, std::vector<int32_t>& class_of,
                           std::vector<WeightClass>& classes) {
  std::vector<int32_t> slots(size_t{1} << kSlotBits, -1);
  for (int64_t row = 0; row < n; ++row) {
    const uint64_t key = sort_key(weights[row]);
    uint64_t slot = key * 0x9E3779B97F4A7C15u >> (64 - kSlotBits);
    while (slots[slot] >= 0 && sort_key(classes[slots[slot]].weight) != key) {
      slot = (slot + 1) % slots.size();
    }
    if (slots[slot] < 0) {
      if (static_cast<int64_t>(classes.size()) == kMostHashed) return false;
      slots[slot] = static_cast<int32_t>(classes.size());
      classes.push_back({weights[row], 0, 0});
    }
    class_of[row] = slots[slot];
    ++classes[slots[slot]].end;
  }
  return true;
}

inline WeightClasses classes_of(const double* weights, int64_t n) {
  std::vector<int32_t> class_of(n);
  std::vector<WeightClass> counted;
  if (!number_classes(weights, n, class_of, counted)) return classes_by_sorting(weights, n);
  std::vector<int32_t> order(counted.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return sort_key(counted[a].weight) < sort_key(counted[b].weight);
  });
  WeightClasses result;
  result.rows.resize(n);
  std::vector<int64_t> next(counted.size());
  int64_t begin = 0;
  for (const int32_t c : order) {
    result.classes.push_back({counted[c].weight, begin, begin + counted[c].end});
    next[c] = begin;
    begin += counted[c].end;
  }
  for (int64_t row = 0; row < n; ++row) result.rows[next[class_of[row]]++] = row;
  return result;
}

// From so many rows of a weight on, they are counted together; fewer are added one by one.
constexpr int64_t kCountedRows = 8;

// Words of 64 rows in a chunk: its columns stay in the cache while pairs of them are counted.
constexpr int64_t kChunkWords = 64;

// Rows of one weight, as bit vectors of rows: column j, `words` long, says which rows hold j.
struct GramChunk {
  const int64_t* rows;
  int64_t count;
  uint64_t* columns;
  int64_t words;
};

// Bit j of word i becomes bit i of word j (Warren, "Hacker's Delight", 7-3).
FASTXAI_INLINE void transpose64(uint64_t* a) {
  uint64_t mask = 0x00000000FFFFFFFFu;
  for (int half = 32; half > 0; half /= 2, mask ^= mask << half) {
    for (int base = 0; base < 64; base += 2 * half) {
      for (int i = base; i < base + half; ++i) {
        const uint64_t swap = (a[i] >> half ^ a[i + half]) & mask;
        a[i + half] ^= swap;
        a[i] ^= swap << half;
      }
    }
  }
}

FASTXAI_CLONES static void transpose_leaf(const GramChunk& chunk, const int64_t* bits,
                                          int64_t players) {
  const int64_t words = (players + 63) / 64;
  uint64_t square[64];
  for (int64_t block = 0; block < chunk.words; ++block) {
    const int64_t* rows = chunk.rows + 64 * block;
    const int64_t n = std::min<int64_t>(64, chunk.count - 64 * block);
    for (int64_t w = 0; w < words; ++w) {
      for (int64_t i = 0; i < n; ++i) square[i] = static_cast<uint64_t>(bits[rows[i] * words + w]);
      std::fill(square + n, square + 64, 0);
      transpose64(square);
      const int64_t columns = std::min<int64_t>(64, players - 64 * w);
      for (int64_t j = 0; j < columns; ++j) {
        chunk.columns[(64 * w + j) * chunk.words + block] = square[j];
      }
    }
  }
}

// Players whose rows of the Gram matrix are one unit of work.
constexpr int64_t kGramRows = 8;

// Adds to counts[(i - first) * players + j] the rows that hold i and j, for j <= i, first <= i <
// last.
FASTXAI_CLONES static void count_leaf(int64_t* counts, const GramChunk& chunk, int64_t players,
                                      int64_t first, int64_t last) {
  const int64_t words = chunk.words;
  for (int64_t i = first; i < last; ++i) {
    const uint64_t* a = chunk.columns + i * words;
    for (int64_t j = 0; j <= i; ++j) {
      const uint64_t* b = chunk.columns + j * words;
      int64_t count = 0;
      for (int64_t w = 0; w < words; ++w) count += __builtin_popcountll(a[w] & b[w]);
      counts[(i - first) * players + j] += count;
    }
  }
}

// Rows of few equal weights, in the order in which they are added: [count, W] and [count].
struct GramRows {
  const int64_t* bits;
  const double* weights;
  int64_t count;
};

// Adds to gram[i * players + j] the weights of the rows that hold i and j, for begin <= j < begin +
// 64, first <= i < last, where first is a multiple of kGramRows and begin one of 64. It stops
// after the diagonal.
FASTXAI_CLONES static void add_rows_leaf(double* gram, const GramRows& rows, int64_t players,
                                         int64_t first, int64_t last, int64_t begin) {
  constexpr int64_t kLanes = 8;
  const int64_t words = (players + 63) / 64;
  const int64_t columns = std::min<int64_t>(64, last - begin);
  const uint64_t mask = (uint64_t{1} << (last - first)) - 1;
  double sums[kGramRows][64] = {};
  for (int64_t i = first; i < last; ++i) {
    std::copy_n(gram + i * players + begin, columns, sums[i - first]);
  }
  for (int64_t n = 0; n < rows.count; ++n) {
    const auto word = static_cast<uint64_t>(rows.bits[n * words + begin / 64]);
    const auto own = static_cast<uint64_t>(rows.bits[n * words + first / 64]) >> (first % 64);
    const double weight = rows.weights[n];
    double present[64];
    for (int64_t j = 0; j < 64; ++j) present[j] = (word >> j & 1) != 0 ? weight : 0.0;
    for (uint64_t left = own & mask; left != 0; left &= left - 1) {
      double* sum = sums[__builtin_ctzll(left)];
      for (int64_t block = 0; block < columns; block += kLanes) {
        for (int64_t j = block; j < block + kLanes; ++j) sum[j] += present[j];
      }
    }
  }
  for (int64_t i = first; i < last; ++i) {
    std::copy_n(sums[i - first], columns, gram + i * players + begin);
  }
}

}  // namespace fastxai
