// The loops of path_points, without torch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/float16.h"
#include "../common/isa.h"

namespace fastxai {

// A tile's start and difference stay in the first-level cache while its steps are written.
constexpr int64_t kPointsTile = 1024;

// Writes points[s * stride + i] for one tile i in [begin, begin + n) and all steps, n <=
// kPointsTile. The baseline repeats after `period` elements: one for all rows, or one for each.
template <class T>
FASTXAI_INLINE void points_tile(T* points, int64_t stride, const T* input, const T* baseline,
                                int64_t period, int64_t begin, int64_t n, const double* alphas,
                                int64_t steps) {
  using A = Accumulation<T>;
  A start[kPointsTile];
  A difference[kPointsTile];
  for (int64_t done = 0; done < n;) {
    const int64_t offset = (begin + done) % period;
    const int64_t run = std::min(n - done, period - offset);
    for (int64_t i = 0; i < run; ++i) start[done + i] = widen(baseline[offset + i]);
    done += run;
  }
  for (int64_t i = 0; i < n; ++i) difference[i] = widen(input[begin + i]) - start[i];
  for (int64_t s = 0; s < steps; ++s) {
    const A alpha = static_cast<A>(alphas[s]);
    T* row = points + s * stride + begin;
    for (int64_t i = 0; i < n; ++i) row[i] = Narrow<T>::from(start[i] + alpha * difference[i]);
  }
}

#define FASTXAI_POINTS_LEAF(T)                                                             \
  FASTXAI_CLONES static void points_leaf(T* points, int64_t stride, const T* input,        \
                                         const T* baseline, int64_t period, int64_t begin, \
                                         int64_t n, const double* alphas, int64_t steps) { \
    points_tile(points, stride, input, baseline, period, begin, n, alphas, steps);         \
  }
FASTXAI_POINTS_LEAF(Half)
FASTXAI_POINTS_LEAF(BFloat16)
FASTXAI_POINTS_LEAF(float)
FASTXAI_POINTS_LEAF(double)
#undef FASTXAI_POINTS_LEAF

}  // namespace fastxai
