// The noise of noisy_points and noisy_reduce, without torch.
#pragma once

#include <cstdint>

#include "../common/draws.h"
#include "../common/isa.h"

namespace fastxai {

// A tile's noise stays in the first-level cache while it is used.
constexpr int64_t kNoiseTile = 1024;

// Which noise an example gets in a sample.
struct NoiseSource {
  PhiloxKey key;
  uint32_t stream;
};

// Fills noise[0, n) with the standard normals of elements [begin, begin + n) of a row; begin is a
// multiple of kNoiseTile, and what is written may reach up to the next multiple of kGroup.
FASTXAI_INLINE void noise_tile(float* noise, int64_t begin, int64_t n, int64_t sample,
                               int64_t example, const NoiseSource& source) {
  constexpr int64_t kCounters = kNoiseTile / 4;
  uint32_t w0[kCounters], w1[kCounters], w2[kCounters], w3[kCounters];
  const int64_t counters = (n + kGroup - 1) / kGroup * kLane;
  for (int64_t c = 0; c < counters; c += kLane) {
    for (int64_t i = 0; i < kLane; ++i) {
      w0[c + i] = static_cast<uint32_t>(begin / 4 + c + i);
      w1[c + i] = static_cast<uint32_t>(sample);
      w2[c + i] = static_cast<uint32_t>(example);
      w3[c + i] = source.stream;
    }
  }
  // philox4x32_10, round by round for all counters, which vectorises.
  uint32_t key0 = source.key.word[0], key1 = source.key.word[1];
  for (int round = 0; round < 10; ++round) {
    for (int64_t c = 0; c < counters; c += kLane) {
      for (int64_t i = c; i < c + kLane; ++i) {
        const uint64_t product0 = uint64_t{0xD2511F53u} * w0[i];
        const uint64_t product1 = uint64_t{0xCD9E8D57u} * w2[i];
        w0[i] = static_cast<uint32_t>(product1 >> 32) ^ w1[i] ^ key0;
        w2[i] = static_cast<uint32_t>(product0 >> 32) ^ w3[i] ^ key1;
        w1[i] = static_cast<uint32_t>(product1);
        w3[i] = static_cast<uint32_t>(product0);
      }
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  for (int64_t c = 0; c < counters; c += kLane, noise += kGroup) {
    for (int64_t i = 0; i < kLane; ++i) {
      box_muller(w0[c + i], w1[c + i], noise[i], noise[kLane + i]);
    }
    for (int64_t i = 0; i < kLane; ++i) {
      box_muller(w2[c + i], w3[c + i], noise[2 * kLane + i], noise[3 * kLane + i]);
    }
  }
}

}  // namespace fastxai
