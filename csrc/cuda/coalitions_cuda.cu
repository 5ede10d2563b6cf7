#include <torch/csrc/stable/library.h>

#include "../common/coalitions.h"
#include "../common/subsets.h"
#include "launch.h"

namespace fastxai::cuda {
namespace {

constexpr int kThreads = 128;

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

// binomials[k * (players + 1) + n] = C(n, k) for k < numbered.
__global__ void binomials_kernel(int64_t* __restrict__ binomials, int64_t players,
                                 int64_t numbered) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= numbered * (players + 1)) return;
  const int64_t k = at / (players + 1);
  const int64_t n = at % (players + 1);
  int64_t binomial = n >= k ? 1 : 0;
  for (int64_t i = 0; i < k; ++i) binomial = next_binomial(binomial, n, i);
  binomials[at] = binomial;
}

// A thread writes a row. Sizes out of range count as the nearest, ranks modulo the subsets there
// are: nothing here looks at values before it starts.
__global__ void coalitions_kernel(int64_t* __restrict__ bits, const int64_t* __restrict__ sizes,
                                  const int64_t* __restrict__ ranks,
                                  const int64_t* __restrict__ binomials, int64_t rows,
                                  int64_t players, int64_t words, int64_t numbered, PhiloxKey key) {
  const int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= rows) return;
  const int64_t size = sizes[n] < -1 ? -1 : sizes[n] > players ? players : sizes[n];
  const int64_t fewer = size < players - size ? size : players - size;
  int64_t* row = bits + n * words;
  for (int64_t w = 0; w < words; ++w) row[w] = size < 0 ? flip_coins(ranks[n], w, key) : 0;
  if (size >= 0 && fewer < numbered) {
    const int64_t count = binomials[fewer * (players + 1) + players];
    const int64_t rest = ranks[n] % count;
    const RankOrder order = rank_order(count, size, players, key);
    unrank(row, binomials, players, fewer, permute(order, rest < 0 ? rest + count : rest));
  } else if (size >= 0) {
    draw_subset(row, players, fewer, ranks[n], static_cast<uint32_t>(size), key);
  }
  if (size > fewer) {
    for (int64_t w = 0; w < words; ++w) row[w] = ~row[w];
  }
  row[words - 1] &= player_mask(players, words - 1);
}

Tensor coalitions_cuda(int64_t players, const Tensor& sizes, const Tensor& ranks, int64_t seed) {
  check_coalitions(players, sizes, ranks);
  const DeviceGuard guard(sizes.get_device_index());
  const Tensor bits = empty_coalitions(players, sizes);
  if (bits.numel() == 0) return bits;
  const cudaStream_t stream = current_stream(sizes);
  const int64_t numbered = countable_sizes(players);
  const Tensor binomials = torch::stable::new_empty(sizes, Shape{numbered, players + 1});
  binomials_kernel<<<blocks_for(binomials.numel()), kThreads, 0, stream>>>(
      mutable_data<int64_t>(binomials), players, numbered);
  check_launch("coalitions");
  const Tensor size = as_contiguous(sizes);
  const Tensor rank = as_contiguous(ranks);
  coalitions_kernel<<<blocks_for(sizes.numel()), kThreads, 0, stream>>>(
      mutable_data<int64_t>(bits), data<int64_t>(size), data<int64_t>(rank),
      data<int64_t>(binomials), sizes.numel(), players, bits.size(1), numbered, philox_key(seed));
  check_launch("coalitions");
  return bits;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("coalitions", TORCH_BOX(&fastxai::cuda::coalitions_cuda));
}
