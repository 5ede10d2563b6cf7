// The loops of noisy_points, without torch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/float16.h"
#include "../common/isa.h"
#include "noise.h"

namespace fastxai {

// One tile of a row to be written: elements [begin, begin + n) of the features.
template <class T>
struct NoisyTile {
  const T* input;     // of the example
  const T* baseline;  // that was drawn; null for none
  double alpha;
  double stdev;
  NoiseSource source;
  int64_t sample, example, begin, n;
};

template <class T>
FASTXAI_INLINE void noisy_tile(T* row, const NoisyTile<T>& tile) {
  using A = Accumulation<T>;
  const A alpha = static_cast<A>(tile.alpha);
  const T* input = tile.input + tile.begin;
  A ends[kNoiseTile];
  if (tile.stdev > 0) {
    float noise[kNoiseTile];
    noise_tile(noise, tile.begin, tile.n, tile.sample, tile.example, tile.source);
    const A stdev = static_cast<A>(tile.stdev);
    for (int64_t i = 0; i < tile.n; ++i) {
      ends[i] = widen(input[i]) + stdev * static_cast<A>(noise[i]);
    }
  } else {
    for (int64_t i = 0; i < tile.n; ++i) ends[i] = widen(input[i]);
  }
  row += tile.begin;
  if (tile.baseline == nullptr) {
    for (int64_t i = 0; i < tile.n; ++i) row[i] = Narrow<T>::from(ends[i]);
    return;
  }
  const T* baseline = tile.baseline + tile.begin;
  for (int64_t i = 0; i < tile.n; ++i) {
    const A start = widen(baseline[i]);
    row[i] = Narrow<T>::from(start + alpha * (ends[i] - start));
  }
}

#define FASTXAI_NOISY_LEAF(T) \
  FASTXAI_CLONES static void noisy_leaf(T* row, const NoisyTile<T>& tile) { noisy_tile(row, tile); }
FASTXAI_NOISY_LEAF(Half)
FASTXAI_NOISY_LEAF(BFloat16)
FASTXAI_NOISY_LEAF(float)
FASTXAI_NOISY_LEAF(double)
#undef FASTXAI_NOISY_LEAF

}  // namespace fastxai
