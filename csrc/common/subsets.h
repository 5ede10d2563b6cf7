// Subsets of M players by number: a keyed order of the subsets of one size, and draws where there
// are too many to number. The same bits on CPU and CUDA; fastxai/ops/reference/draws.py is the same
// arithmetic in torch.
#pragma once

#include <cstdint>

#include "philox.h"

namespace fastxai {

// The last word of a counter tells what the draw is for; subsets beyond counting use their size.
constexpr uint32_t kCoins = 0xFFFFFFFFu;
constexpr uint32_t kRoundKeys = 0xFFFFFFFEu;

// So many subsets of one size, and more, are not numbered: twice as many fit an int64.
constexpr int64_t kCountable = int64_t{1} << 62;

constexpr int kMostRounds = 64;

// A bijection in which every bit in moves every bit out: Chris Wellons' lowbias32.
FASTXAI_HOST_DEVICE inline uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ (x >> 16);
}

FASTXAI_HOST_DEVICE inline PhiloxKey philox_key(int64_t seed) {
  return {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
}

FASTXAI_HOST_DEVICE inline PhiloxCounter row_counter(int64_t rank, int64_t block, uint32_t stream) {
  return {{static_cast<uint32_t>(rank), static_cast<uint32_t>(rank >> 32),
           static_cast<uint32_t>(block), stream}};
}

// Up to so many players, binomials stand in a table, of a megabyte or so at most. For more they are
// worked out: of those, no numbered subset, or its complement, has more than four players.
constexpr int64_t kTabulated = 32767;

// C(n, k) for n up to players.
struct Binomials {
  const int64_t* table;  // of k: table[k * (players + 1) + n]; null where there is none
  int64_t players;

  // Exact in 64 bits wherever the result is.
  FASTXAI_HOST_DEVICE static int64_t compute(int64_t n, int64_t k) {
    int64_t result = n >= k ? 1 : 0;
    for (int64_t i = 0; i < k; ++i) {
      result = result / (i + 1) * (n - i) + result % (i + 1) * (n - i) / (i + 1);
    }
    return result;
  }

  FASTXAI_HOST_DEVICE int64_t operator()(int64_t n, int64_t k) const {
    return table != nullptr ? table[k * (players + 1) + n] : compute(n, k);
  }
};

// The number of k = 0, 1, ... up to players / 2 for which there are fewer than kCountable subsets.
inline int64_t countable_sizes(int64_t players) {
  int64_t binomial = 1;
  int64_t k = 0;
  while (2 * (k + 1) <= players) {
    const auto wide = static_cast<unsigned __int128>(binomial) * (players - k) / (k + 1);
    if (wide >= static_cast<unsigned __int128>(kCountable)) break;
    binomial = static_cast<int64_t>(wide);
    ++k;
  }
  return k + 1;
}

// A permutation of 0, ..., count - 1: a Feistel network on the least number of bits, whose results
// beyond count walk on through it until they fall below (Black and Rogaway, "Ciphers with arbitrary
// finite domains", 2002).
struct RankOrder {
  int64_t count;
  int bits;
  int rounds;
  uint32_t keys[kMostRounds];
};

FASTXAI_HOST_DEVICE inline RankOrder rank_order(int64_t count, int64_t size, int64_t players,
                                                PhiloxKey key) {
  RankOrder order{count, 0, 0, {}};
  while ((count - 1) >> order.bits != 0) ++order.bits;
  order.rounds = order.bits < 12 ? kMostRounds : 8;  // short halves mix slowly
  for (int block = 0; block < order.rounds / 4; ++block) {
    const PhiloxCounter counter{{static_cast<uint32_t>(size), static_cast<uint32_t>(players),
                                 static_cast<uint32_t>(block), kRoundKeys}};
    const PhiloxCounter words = philox4x32_10(counter, key);
    for (int i = 0; i < 4; ++i) order.keys[4 * block + i] = words.word[i];
  }
  return order;
}

FASTXAI_HOST_DEVICE inline int64_t permute(const RankOrder& order, int64_t rank) {
  const int low_bits = order.bits / 2;
  const uint32_t low_mask = (uint32_t{1} << low_bits) - 1;
  const uint32_t high_mask = (uint32_t{1} << (order.bits - low_bits)) - 1;
  int64_t number = rank;
  do {
    uint32_t low = static_cast<uint32_t>(number) & low_mask;
    uint32_t high = static_cast<uint32_t>(number >> low_bits);
    for (int round = 0; round < order.rounds; round += 2) {
      high ^= mix(low ^ order.keys[round]) & high_mask;
      low ^= mix(high ^ order.keys[round + 1]) & low_mask;
    }
    number = static_cast<int64_t>(uint64_t{high} << low_bits | low);
  } while (number >= order.count);
  return number;
}

FASTXAI_HOST_DEVICE inline bool holds(const int64_t* words, int64_t player) {
  return (words[player / 64] >> (player % 64) & 1) != 0;
}

FASTXAI_HOST_DEVICE inline void add_player(int64_t* words, int64_t player) {
  words[player / 64] |= static_cast<int64_t>(uint64_t{1} << (player % 64));
}

// Adds the players of subset `number` in colexicographic order.
FASTXAI_HOST_DEVICE inline void unrank(int64_t* words, const Binomials& binomials, int64_t size,
                                       int64_t number) {
  int64_t above = binomials.players;
  for (int64_t k = size; k > 0; --k) {
    int64_t last = k - 1;  // the last n with C(n, k) <= number, in [last, above)
    while (above - last > 1) {
      const int64_t middle = (last + above) / 2;
      if (binomials(middle, k) <= number) {
        last = middle;
      } else {
        above = middle;
      }
    }
    add_player(words, last);
    number -= binomials(last, k);
    above = last;
  }
}

// Adds `size` different players: Floyd's algorithm (Bentley and Floyd, "A sample of brilliance",
// 1987). Each pick is uniform but for a share of players / 2^32.
FASTXAI_HOST_DEVICE inline void draw_subset(int64_t* words, int64_t players, int64_t size,
                                            int64_t rank, uint32_t stream, PhiloxKey key) {
  PhiloxCounter random{};
  for (int64_t draw = 0; draw < size; ++draw) {
    if (draw % 4 == 0) random = philox4x32_10(row_counter(rank, draw / 4, stream), key);
    const int64_t last = players - size + draw;
    const uint64_t word = random.word[draw % 4];
    const int64_t pick = static_cast<int64_t>(word * static_cast<uint64_t>(last + 1) >> 32);
    add_player(words, holds(words, pick) ? last : pick);
  }
}

// Fair coins for all bits of a row.
FASTXAI_HOST_DEVICE inline void flip_coins(int64_t* words, int64_t count, int64_t rank,
                                           PhiloxKey key) {
  for (int64_t w = 0; w < count; w += 2) {
    const PhiloxCounter random = philox4x32_10(row_counter(rank, w / 2, kCoins), key);
    words[w] = static_cast<int64_t>(random.word[0] | uint64_t{random.word[1]} << 32);
    if (w + 1 == count) break;
    words[w + 1] = static_cast<int64_t>(random.word[2] | uint64_t{random.word[3]} << 32);
  }
}

// Which bits of a word are players.
FASTXAI_HOST_DEVICE inline int64_t player_mask(int64_t players, int64_t word) {
  const int64_t rest = players - 64 * word;
  return rest >= 64 ? -1 : static_cast<int64_t>((uint64_t{1} << rest) - 1);
}

}  // namespace fastxai
