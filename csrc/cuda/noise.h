// What the CUDA kernels of noisy_points and noisy_reduce share.
#pragma once

#include "../common/draws.h"
#include "../common/noisy_points.h"

namespace fastxai::cuda {

struct NoisyLayout {
  int64_t batch, features;
  int64_t baselines;       // K; 0 for none
  int64_t all_samples;     // of an example
  int64_t first, samples;  // those at hand
  int64_t example;         // the number of the first example
  double stdev;
  uint32_t stream;
  PhiloxKey key;
};

inline NoisyLayout noisy_layout(const NoisyArguments& of, PhiloxKey key) {
  return {
      .batch = of.input.size(0),
      .features = of.input.numel() / of.input.size(0),
      .baselines = of.baseline ? of.baseline->size(0) : 0,
      .all_samples = of.samples,
      .first = of.first,
      .samples = of.last - of.first,
      .example = of.example,
      .stdev = of.stdev,
      .stream = static_cast<uint32_t>(of.stream),
      .key = key,
  };
}

__device__ inline int64_t element_of(int64_t counter, int lane) {
  return counter / kLane * kGroup + lane * kLane + counter % kLane;
}

// The four normals of a counter.
__device__ inline void noise_of(float* noise, int64_t counter, int64_t sample, int64_t example,
                                const NoisyLayout& layout) {
  if (!(layout.stdev > 0)) {
    for (int lane = 0; lane < 4; ++lane) noise[lane] = 0.0f;
    return;
  }
  const PhiloxCounter words =
      philox4x32_10({{static_cast<uint32_t>(counter), static_cast<uint32_t>(sample),
                      static_cast<uint32_t>(example), layout.stream}},
                    layout.key);
  box_muller(words.word[0], words.word[1], noise[0], noise[1]);
  box_muller(words.word[2], words.word[3], noise[2], noise[3]);
}

}  // namespace fastxai::cuda
