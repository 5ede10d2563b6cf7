#include <torch/csrc/stable/library.h>

#include "../common/coalition_gram.h"
#include "launch.h"
#include "sum_parts.h"

namespace fastxai::cuda {
namespace {

// A thread adds the weights of the rows of its part (blockIdx.y) that hold its two players.
__global__ void gram_kernel(double* __restrict__ parts, const int64_t* __restrict__ bits,
                            const double* __restrict__ weights, int64_t players, int64_t words,
                            int64_t rows, int64_t rows_per_part) {
  const int64_t pair = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (pair >= players * players) return;
  const int64_t i = pair / players;
  const int64_t j = pair % players;
  const int64_t begin = blockIdx.y * rows_per_part;
  const int64_t end = begin + rows_per_part < rows ? begin + rows_per_part : rows;
  double sum = 0;
#pragma unroll 4
  for (int64_t n = begin; n < end; ++n) {
    const int64_t* row = bits + n * words;
    const bool both = (row[i / 64] >> (i % 64) & row[j / 64] >> (j % 64) & 1) != 0;
    sum += both ? weights[n] : 0.0;
  }
  parts[blockIdx.y * players * players + pair] = sum;
}

Tensor coalition_gram_cuda(const Tensor& bits, int64_t players, const Tensor& weights) {
  check_coalition_gram(bits, players, weights);
  const DeviceGuard guard(bits.get_device_index());
  const Tensor gram = empty_coalition_gram(players, weights);
  const Tensor rows = as_contiguous(bits);
  const Tensor row_weights = as_contiguous(weights);
  const int64_t pairs = players * players;
  const Parts cut = cut_rows(weights.numel(), pairs);
  const Tensor parts = torch::stable::new_empty(weights, Shape{cut.count, players, players});
  const dim3 grid(blocks_for(pairs), static_cast<unsigned>(cut.count));
  gram_kernel<<<grid, kSumThreads, 0, current_stream(bits)>>>(
      mutable_data<double>(parts), data<int64_t>(rows), data<double>(row_weights), players,
      coalition_words(players), weights.numel(), cut.rows);
  check_launch("coalition_gram");
  sum_parts(gram, parts, cut.count);
  check_launch("coalition_gram");
  return gram;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("coalition_gram", TORCH_BOX(&fastxai::cuda::coalition_gram_cuda));
}
