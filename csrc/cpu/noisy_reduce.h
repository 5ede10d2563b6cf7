// The loops of noisy_reduce, without torch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/float16.h"
#include "../common/isa.h"
#include "noise.h"

namespace fastxai {

// One tile of an example: elements [begin, begin + n) of its features, over `samples` samples from
// `first` on.
template <class T>
struct NoisyReduction {
  const T* grads;     // of the first sample
  int64_t stride;     // from sample to sample
  const T* input;     // of the example
  const T* baseline;  // the first; null for none
  int64_t features;
  const int64_t* drawn;  // the baselines of the samples; null for none
  int64_t drawn_stride;
  double stdev;
  NoiseSource source;
  int64_t first, samples, example, begin, n;
};

// sums[i] += sum_s (input[i] + stdev * noise[s][i] - baseline[s][i]) * grads[s][i], sample after
// sample, so that chunks of samples change no bit.
template <class T>
FASTXAI_INLINE void noisy_reduce_tile(Accumulation<T>* sums, const NoisyReduction<T>& of) {
  using A = Accumulation<T>;
  const T* input = of.input + of.begin;
  A ends[kNoiseTile];
  for (int64_t i = 0; i < of.n; ++i) ends[i] = widen(input[i]);
  for (int64_t s = 0; s < of.samples; ++s) {
    if (of.stdev > 0) {
      float noise[kNoiseTile];
      noise_tile(noise, of.begin, of.n, of.first + s, of.example, of.source);
      const A stdev = static_cast<A>(of.stdev);
      for (int64_t i = 0; i < of.n; ++i) {
        ends[i] = widen(input[i]) + stdev * static_cast<A>(noise[i]);
      }
    }
    const T* grad = of.grads + s * of.stride + of.begin;
    if (of.baseline == nullptr) {
      for (int64_t i = 0; i < of.n; ++i) sums[i] += ends[i] * widen(grad[i]);
      continue;
    }
    const T* start = of.baseline + of.drawn[s * of.drawn_stride] * of.features + of.begin;
    for (int64_t i = 0; i < of.n; ++i) sums[i] += (ends[i] - widen(start[i])) * widen(grad[i]);
  }
}

#define FASTXAI_NOISY_REDUCE_LEAF(T)                                          \
  FASTXAI_CLONES static void noisy_reduce_leaf(Accumulation<T>* sums,         \
                                               const NoisyReduction<T>& of) { \
    noisy_reduce_tile(sums, of);                                              \
  }
FASTXAI_NOISY_REDUCE_LEAF(Half)
FASTXAI_NOISY_REDUCE_LEAF(BFloat16)
FASTXAI_NOISY_REDUCE_LEAF(float)
FASTXAI_NOISY_REDUCE_LEAF(double)
#undef FASTXAI_NOISY_REDUCE_LEAF

}  // namespace fastxai
