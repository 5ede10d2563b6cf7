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

// table[k * (players + 1) + n] = C(n, k) for k < numbered.
__global__ void binomials_kernel(int64_t* __restrict__ table, int64_t players, int64_t numbered) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= numbered * (players + 1)) return;
  table[at] = Binomials::compute(at % (players + 1), at / (players + 1));
}

// A thread writes a row. Sizes out of range count as the nearest, ranks modulo the subsets there
// are: nothing here looks at values before it starts.
__global__ void coalitions_kernel(int64_t* __restrict__ bits, const int64_t* __restrict__ sizes,
                                  const int64_t* __restrict__ ranks, Binomials binomials,
                                  int64_t rows, int64_t words, int64_t numbered, PhiloxKey key) {
  const int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= rows) return;
  const int64_t players = binomials.players;
  const int64_t size = sizes[n] < -1 ? -1 : sizes[n] > players ? players : sizes[n];
  const int64_t fewer = size < players - size ? size : players - size;
  int64_t* row = bits + n * words;
  for (int64_t w = 0; w < words; ++w) row[w] = 0;
  if (size < 0) {
    flip_coins(row, words, ranks[n], key);
  } else if (fewer < numbered) {
    const int64_t count = binomials(players, fewer);
    const int64_t rest = ranks[n] % count;
    const RankOrder order = rank_order(count, size, players, key);
    unrank(row, binomials, fewer, permute(order, rest < 0 ? rest + count : rest));
  } else {
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
  const bool tabulated = players <= kTabulated;
  const Tensor table =
      torch::stable::new_empty(sizes, Shape{tabulated ? numbered : 0, players + 1});
  if (tabulated) {
    binomials_kernel<<<blocks_for(table.numel()), kThreads, 0, stream>>>(
        mutable_data<int64_t>(table), players, numbered);
    check_launch("coalitions");
  }
  const Binomials binomials{tabulated ? data<int64_t>(table) : nullptr, players};
  const Tensor size = as_contiguous(sizes);
  const Tensor rank = as_contiguous(ranks);
  coalitions_kernel<<<blocks_for(sizes.numel()), kThreads, 0, stream>>>(
      mutable_data<int64_t>(bits), data<int64_t>(size), data<int64_t>(rank), binomials,
      sizes.numel(), bits.size(1), numbered, philox_key(seed));
  check_launch("coalitions");
  return bits;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("coalitions", TORCH_BOX(&fastxai::cuda::coalitions_cuda));
}
