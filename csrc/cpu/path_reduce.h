// The loops of path_reduce, without torch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/float16.h"
#include "../common/isa.h"

namespace fastxai {

// A tile's sums stay in the first-level cache while its steps are read.
constexpr int64_t kReduceTile = 1024;

// sums[i] = acc[i] + sum_s weights[s] * grads[s * stride + i] for i in [begin, end); acc may be
// null. One step is added after the other, so that neither tiles nor chunks of steps change a bit;
// four at a time only spare the sums' way to the cache and back.
template <class T>
FASTXAI_INLINE void reduce_range(Accumulation<T>* sums, const Accumulation<T>* acc, const T* grads,
                                 int64_t stride, const double* weights, int64_t steps,
                                 int64_t begin, int64_t end) {
  using A = Accumulation<T>;
  A tile[kReduceTile];
  for (int64_t first = begin; first < end; first += kReduceTile) {
    const int64_t n = std::min(kReduceTile, end - first);
    for (int64_t i = 0; i < n; ++i) tile[i] = acc == nullptr ? A{0} : acc[first + i];
    int64_t s = 0;
    for (; s + 4 <= steps; s += 4) {
      const T* g0 = grads + s * stride + first;
      const T* g1 = g0 + stride;
      const T* g2 = g1 + stride;
      const T* g3 = g2 + stride;
      const A w0 = static_cast<A>(weights[s]);
      const A w1 = static_cast<A>(weights[s + 1]);
      const A w2 = static_cast<A>(weights[s + 2]);
      const A w3 = static_cast<A>(weights[s + 3]);
      for (int64_t i = 0; i < n; ++i) {
        A sum = tile[i] + w0 * widen(g0[i]);
        sum += w1 * widen(g1[i]);
        sum += w2 * widen(g2[i]);
        tile[i] = sum + w3 * widen(g3[i]);
      }
    }
    for (; s < steps; ++s) {
      const T* g = grads + s * stride + first;
      const A w = static_cast<A>(weights[s]);
      for (int64_t i = 0; i < n; ++i) tile[i] += w * widen(g[i]);
    }
    std::copy(tile, tile + n, sums + first);
  }
}

#define FASTXAI_REDUCE_LEAF(T)                                                                  \
  FASTXAI_CLONES static void reduce_leaf(Accumulation<T>* sums, const Accumulation<T>* acc,     \
                                         const T* grads, int64_t stride, const double* weights, \
                                         int64_t steps, int64_t begin, int64_t end) {           \
    reduce_range<T>(sums, acc, grads, stride, weights, steps, begin, end);                      \
  }
FASTXAI_REDUCE_LEAF(Half)
FASTXAI_REDUCE_LEAF(BFloat16)
FASTXAI_REDUCE_LEAF(float)
FASTXAI_REDUCE_LEAF(double)
#undef FASTXAI_REDUCE_LEAF

}  // namespace fastxai
