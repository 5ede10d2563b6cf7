// The loops of perturb, without torch.
//
// A selection is blind to types, so elements are moved as unsigned words ("lanes") of their size;
// 16 bytes are two lanes. A tile of features is prepared once and then written for many coalitions,
// while its values and its players stay in the first-level cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../common/isa.h"

namespace fastxai {

// The part of a coalition that is looked at at once: what vectorises best beside such lanes.
template <class U>
using Piece = std::conditional_t<sizeof(U) == 8, uint64_t, uint32_t>;

template <class U>
constexpr int64_t kSelectTile = 4096 / sizeof(Piece<U>);  // lanes

// Where players are many, those of a few lanes still lie in one or two pieces of a coalition: the
// features of a player are neighbours as a rule, and so are players.
constexpr int64_t kSelectBlock = 32;

// Neighbouring lanes, up to `end`, whose players lie in 1 piece (low), 2 (low and high), or, called
// 3, any number.
struct Span {
  int64_t end;
  int32_t low, high;
  int32_t pieces;
};

// Who a tile's lanes belong to.
template <class U>
struct Players {
  uint32_t id[kSelectTile<U>];
  // The bit of the lane's player in its span's low or high piece; 0 in the other one.
  Piece<U> low[kSelectTile<U>];
  Piece<U> high[kSelectTile<U>];
  Span spans[kSelectTile<U> / kSelectBlock];
};

// Extends a span by the next one if the players of both lie in two pieces, or those of neither do.
FASTXAI_INLINE bool merge(Span& span, const Span& next) {
  const bool same = span.pieces == 3 && next.pieces == 3;
  const int32_t low = std::min(span.low, next.low);
  const int32_t high = std::max(span.high, next.high);
  const auto within = [&](int32_t piece) { return piece == low || piece == high; };
  const bool fits = span.pieces < 3 && next.pieces < 3 && within(span.low) && within(span.high) &&
                    within(next.low) && within(next.high);
  if (!same && !fits) return false;
  span = {next.end, low, high, same ? 3 : low == high ? 1 : 2};
  return true;
}

// The span of lanes [begin, end).
template <int kShift>
FASTXAI_INLINE Span span_of(const uint32_t* id, int64_t begin, int64_t end) {
  uint32_t least = id[begin], most = id[begin];
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t player = id[i];
    least = player < least ? player : least;
    most = player > most ? player : most;
  }
  const uint32_t low = least >> kShift, high = most >> kShift;
  uint32_t between = 0;
  if (high - low > 1) {
    for (int64_t i = begin; i < end; ++i) {
      between |= uint32_t{id[i] >> kShift != low} & uint32_t{id[i] >> kShift != high};
    }
  }
  const int32_t pieces = between != 0 ? 3 : low == high ? 1 : 2;
  return {end, static_cast<int32_t>(low), static_cast<int32_t>(high), pieces};
}

// Fills in everything from the ids of the first n lanes. False if an id is not below `players`.
template <class U>
FASTXAI_INLINE bool prepare_players(Players<U>& tile, int64_t n, int64_t players) {
  constexpr int kShift = sizeof(Piece<U>) == 8 ? 6 : 5;
  constexpr uint32_t kLast = (1u << kShift) - 1;
  uint32_t most = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, tile.id[i]);
  if (most >= players) return false;
  tile.spans[0] = span_of<kShift>(tile.id, 0, n);
  if (tile.spans[0].pieces == 3) {
    int64_t last = -1;
    for (int64_t begin = 0; begin < n; begin += kSelectBlock) {
      const Span next = span_of<kShift>(tile.id, begin, std::min(begin + kSelectBlock, n));
      if (last < 0 || !merge(tile.spans[last], next)) tile.spans[++last] = next;
    }
  }
  int64_t begin = 0;
  for (const Span* span = tile.spans; begin < n; begin = span++->end) {
    const uint32_t low = static_cast<uint32_t>(span->low);
    for (int64_t i = begin; i < span->end; ++i) {
      const Piece<U> bit = Piece<U>{1} << (tile.id[i] & kLast);
      tile.low[i] = tile.id[i] >> kShift == low ? bit : 0;
      tile.high[i] = tile.id[i] >> kShift == low ? 0 : bit;
    }
  }
  return true;
}

template <class U>
FASTXAI_INLINE Piece<U> piece_of(const int64_t* bits, int64_t index) {
  if constexpr (sizeof(U) == 8) return static_cast<uint64_t>(bits[index]);
  return static_cast<Piece<U>>(static_cast<uint64_t>(bits[index / 2]) >> (32 * (index % 2)));
}

// rows[n * stride + i] = lane i of input or baseline by its player in coalition n, for the first
// `lanes` lanes of a tile. A coalition has `words` words.
template <class U>
FASTXAI_INLINE void select_rows(U* rows, int64_t stride, const U* __restrict__ input,
                                const U* __restrict__ baseline, const Players<U>& tile,
                                int64_t lanes, const int64_t* __restrict__ bits, int64_t words,
                                int64_t coalitions) {
  for (int64_t n = 0; n < coalitions; ++n, bits += words) {
    U* __restrict__ row = rows + n * stride;
    int64_t i = 0;
    for (const Span* span = tile.spans; i < lanes; ++span) {
      const int64_t end = std::min(span->end, lanes);
      if (span->pieces == 1) {
        const Piece<U> low = piece_of<U>(bits, span->low);
        for (; i < end; ++i) {
          const U present = input[i], absent = baseline[i];
          row[i] = (tile.low[i] & low) != 0 ? present : absent;
        }
      } else if (span->pieces == 2) {
        const Piece<U> low = piece_of<U>(bits, span->low);
        const Piece<U> high = piece_of<U>(bits, span->high);
        for (; i < end; ++i) {
          const U present = input[i], absent = baseline[i];
          row[i] = ((tile.low[i] & low) | (tile.high[i] & high)) != 0 ? present : absent;
        }
      } else {
        for (; i < end; ++i) {
          // Not all compilers vectorise this one: no branch, then.
          const U bit = static_cast<U>((bits[tile.id[i] / 64] >> (tile.id[i] % 64)) & 1);
          const U chosen = (input[i] ^ baseline[i]) & static_cast<U>(-bit);
          row[i] = baseline[i] ^ chosen;
        }
      }
    }
  }
}

#define FASTXAI_PERTURB_LEAVES(U)                                                                  \
  FASTXAI_CLONES static bool prepare_leaf(Players<U>& tile, int64_t n, int64_t players) {          \
    return prepare_players(tile, n, players);                                                      \
  }                                                                                                \
  FASTXAI_CLONES static void select_leaf(U* rows, int64_t stride, const U* input,                  \
                                         const U* baseline, const Players<U>& tile, int64_t lanes, \
                                         const int64_t* bits, int64_t words, int64_t coalitions) { \
    select_rows(rows, stride, input, baseline, tile, lanes, bits, words, coalitions);              \
  }
FASTXAI_PERTURB_LEAVES(uint8_t)
FASTXAI_PERTURB_LEAVES(uint16_t)
FASTXAI_PERTURB_LEAVES(uint32_t)
FASTXAI_PERTURB_LEAVES(uint64_t)
#undef FASTXAI_PERTURB_LEAVES

// Where examples lie; a stride of 0 stands for one for all.
template <class T>
struct Examples {
  const T* data;
  int64_t example_stride;
  int64_t background_stride;
};

// Rows for all of these coalitions, backgrounds and examples; an example has `lanes` lanes.
template <class U>
struct Perturbation {
  U* rows;
  int64_t coalition_stride, background_stride;  // of rows, whose examples are neighbours
  Examples<U> input, baseline;
  Examples<int32_t> mask;
  int64_t lanes_each;  // of one element, which has one player: 1 or 2
  const int64_t* bits;
  int64_t words;
  int64_t coalitions, backgrounds, examples, lanes;

  // A tile is a part of an example, or several examples where they are small.
  int64_t tile_examples() const { return std::clamp<int64_t>(kSelectTile<U> / lanes, 1, examples); }
  int64_t tile_lanes() const {
    if (tile_examples() > 1) return lanes * tile_examples();
    const int64_t parts = (lanes + kSelectTile<U> - 1) / kSelectTile<U>;
    return ((lanes + parts - 1) / parts + 63) / 64 * 64;
  }
  int64_t tile_parts() const {
    return tile_examples() > 1 ? 1 : (lanes + tile_lanes() - 1) / tile_lanes();
  }
  int64_t tile_groups() const { return (examples + tile_examples() - 1) / tile_examples(); }
  // One unit is one tile of one coalition. The coalitions of a tile are neighbours, then those
  // tiles that may share their players.
  int64_t units() const { return tile_parts() * tile_groups() * backgrounds * coalitions; }
};

// The values of a tile: where they are, if they are neighbours, else a copy.
template <class U>
class TileValues {
 public:
  const U* get(const Examples<U>& from, int64_t offset, int64_t lanes, int64_t examples) {
    const U* first = from.data + offset;
    if (examples == 1 || from.example_stride == lanes) return first;
    if (first != copied_) {
      for (int64_t e = 0; e < examples; ++e) {
        std::memcpy(copy_ + e * lanes, first + e * from.example_stride, lanes * sizeof(U));
      }
      copied_ = first;
    }
    return copy_;
  }

 private:
  const U* copied_ = nullptr;
  U copy_[kSelectTile<U>];
};

// The player of each lane.
inline void copy_ids(uint32_t* to, const int32_t* from, int64_t lanes, int64_t lanes_each) {
  if (lanes_each == 1) {
    std::memcpy(to, from, lanes * sizeof(uint32_t));
  } else {
    for (int64_t i = 0; i < lanes; ++i) to[i] = static_cast<uint32_t>(from[i / 2]);
  }
}

// Writes units [begin, end). False, and not all is written, if the mask has an id out of range.
template <class U>
bool perturb_units(const Perturbation<U>& p, int64_t begin, int64_t end) {
  Players<U> players;
  TileValues<U> input, baseline;
  const int32_t* prepared = nullptr;
  const int64_t each = p.tile_examples(), span = p.tile_lanes(), groups = p.tile_groups();
  for (int64_t unit = begin; unit < end;) {
    const int64_t coalition = unit % p.coalitions, tile = unit / p.coalitions;
    const int64_t coalitions = std::min(p.coalitions - coalition, end - unit);
    unit += coalitions;
    const int64_t background = tile % p.backgrounds;
    const int64_t example = tile / p.backgrounds % groups * each;
    const int64_t lane = tile / p.backgrounds / groups * span;
    // Fewer in the last tile, for which what was prepared for another one does as well.
    const int64_t examples = std::min(each, p.examples - example);
    const auto offset = [&](const auto& from) {
      return example * from.example_stride + background * from.background_stride;
    };
    const int64_t part = each > 1 ? p.lanes : std::min(span, p.lanes - lane);
    const int32_t* ids = p.mask.data + offset(p.mask) + lane / p.lanes_each;
    if (ids != prepared) {
      for (int64_t e = 0; e < examples; ++e) {
        copy_ids(players.id + e * part, ids + e * p.mask.example_stride, part, p.lanes_each);
      }
      if (!prepare_leaf(players, examples * part, 64 * p.words)) return false;
      prepared = ids;
    }
    U* rows = p.rows + coalition * p.coalition_stride + background * p.background_stride +
              example * p.lanes + lane;
    select_leaf(rows, p.coalition_stride,
                input.get(p.input, offset(p.input) + lane, part, examples),
                baseline.get(p.baseline, offset(p.baseline) + lane, part, examples), players,
                part * examples, p.bits + coalition * p.words, p.words, coalitions);
  }
  return true;
}

}  // namespace fastxai
