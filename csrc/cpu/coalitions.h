// The loops of coalitions, without torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/isa.h"
#include "../common/subsets.h"

namespace fastxai {

// What all rows of one call share: binomials, and an order for each size that can be numbered.
class SubsetTables {
 public:
  // Coins alone need no tables.
  SubsetTables(int64_t players, int64_t seed, bool coins_alone)
      : players_(players),
        numbered_(coins_alone ? 0 : countable_sizes(players)),
        key_(philox_key(seed)) {
    if (players <= kTabulated) fill_table();
    orders_.reserve(2 * numbered_);
    for (int64_t i = 0; i < 2 * numbered_; ++i) {
      const int64_t size = i < numbered_ ? i : players + 1 - 2 * numbered_ + i;
      orders_.push_back(rank_order(binomials()(players, fewer(size)), size, players, key_));
    }
  }

  int64_t players() const { return players_; }
  PhiloxKey key() const { return key_; }
  Binomials binomials() const { return {table_.empty() ? nullptr : table_.data(), players_}; }

  // The size of the subset or of its complement, whichever is smaller.
  int64_t fewer(int64_t size) const { return std::min(size, players_ - size); }
  bool is_numbered(int64_t size) const { return fewer(size) < numbered_; }
  const RankOrder& order(int64_t size) const {
    return orders_[size < numbered_ ? size : size + 2 * numbered_ - 1 - players_];
  }

 private:
  void fill_table() {
    const int64_t stride = players_ + 1;
    table_.resize(numbered_ * stride);
    if (numbered_ > 0) std::fill_n(table_.begin(), stride, 1);
    for (int64_t k = 1; k < numbered_; ++k) {
      int64_t* row = table_.data() + k * stride;
      for (int64_t n = 1; n <= players_; ++n) row[n] = row[n - 1] + row[n - 1 - stride];
    }
  }

  int64_t players_;
  int64_t numbered_;
  PhiloxKey key_;
  std::vector<int64_t> table_;
  std::vector<RankOrder> orders_;
};

// Rows whose subsets are found side by side.
constexpr int kRankTile = 64;

// Up to 64 players: walks down from the last one and takes it where the number says so, in n <=
// kRankTile rows at once. The same subsets as unrank.
FASTXAI_INLINE void unrank_tile(int64_t* words, const Binomials& binomials, const int64_t* sizes,
                                const int64_t* numbers) {
  const int64_t players = binomials.players;
  const int64_t stride = players + 1;
  const int64_t* table = binomials.table;
  int64_t rest[kRankTile];
  int64_t at[kRankTile];  // where C(player, members left) stands
  int64_t taken[kRankTile];
  for (int i = 0; i < kRankTile; ++i) {
    rest[i] = numbers[i];
    at[i] = sizes[i] * stride + players;
    taken[i] = 0;
  }
  for (int64_t player = players - 1; player >= 0; --player) {
    const int64_t bit = static_cast<int64_t>(uint64_t{1} << player);
    for (int i = 0; i < kRankTile; ++i) {
      const int64_t here = at[i] - 1;
      const int64_t subsets = table[here];
      const int64_t take = -static_cast<int64_t>(rest[i] >= subsets);
      rest[i] -= subsets & take;
      at[i] = here - (stride & take);
      taken[i] |= bit & take;
    }
  }
  std::copy(taken, taken + kRankTile, words);
}

FASTXAI_INLINE void write_tile(int64_t* words, const int64_t* sizes, const int64_t* ranks, int n,
                               const SubsetTables& tables) {
  int64_t fewer[kRankTile] = {};
  int64_t numbers[kRankTile] = {};
  int64_t subsets[kRankTile];
  bool any_numbered = false;
  for (int i = 0; i < n; ++i) {
    if (sizes[i] < 0) continue;
    any_numbered = true;
    fewer[i] = tables.fewer(sizes[i]);
    numbers[i] = permute(tables.order(sizes[i]), ranks[i]);
  }
  if (any_numbered) {
    unrank_tile(subsets, tables.binomials(), fewer, numbers);
  }
  const int64_t mask = player_mask(tables.players(), 0);
  for (int i = 0; i < n; ++i) {
    if (sizes[i] < 0) {
      flip_coins(words + i, 1, ranks[i], tables.key());
    } else {
      words[i] = sizes[i] == fewer[i] ? subsets[i] : ~subsets[i];
    }
    words[i] &= mask;
  }
}

FASTXAI_INLINE void write_row(int64_t* words, int64_t count, int64_t size, int64_t rank,
                              const SubsetTables& tables) {
  const int64_t players = tables.players();
  const int64_t fewer = tables.fewer(size);
  std::fill_n(words, count, 0);
  if (size < 0) {
    flip_coins(words, count, rank, tables.key());
  } else if (tables.is_numbered(size)) {
    unrank(words, tables.binomials(), fewer, permute(tables.order(size), rank));
  } else {
    draw_subset(words, players, fewer, rank, static_cast<uint32_t>(size), tables.key());
  }
  if (size > fewer) {
    for (int64_t w = 0; w < count; ++w) words[w] = ~words[w];
  }
  words[count - 1] &= player_mask(players, count - 1);
}

// Writes rows [begin, end) of the [N, W] bits.
FASTXAI_CLONES static void coalitions_leaf(int64_t* bits, const int64_t* sizes,
                                           const int64_t* ranks, int64_t begin, int64_t end,
                                           const SubsetTables& tables) {
  const int64_t words = (tables.players() + 63) / 64;
  if (words > 1) {
    for (int64_t n = begin; n < end; ++n) {
      write_row(bits + n * words, words, sizes[n], ranks[n], tables);
    }
    return;
  }
  for (int64_t n = begin; n < end; n += kRankTile) {
    const int rows = static_cast<int>(std::min<int64_t>(kRankTile, end - n));
    write_tile(bits + n, sizes + n, ranks + n, rows, tables);
  }
}

}  // namespace fastxai
