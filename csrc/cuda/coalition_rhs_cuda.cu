#include <torch/csrc/stable/library.h>

#include "../common/coalition_rhs.h"
#include "launch.h"
#include "sum_parts.h"

namespace fastxai::cuda {
namespace {

// A thread adds its output over the rows of its part (blockIdx.y) that hold its player.
template <class T>
__global__ void rhs_kernel(double* __restrict__ parts, const int64_t* __restrict__ bits,
                           const double* __restrict__ weights, const T* __restrict__ values,
                           int64_t players, int64_t words, int64_t outputs, int64_t rows,
                           int64_t rows_per_part) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= players * outputs) return;
  const int64_t player = at / outputs;
  const int64_t output = at % outputs;
  const int64_t begin = blockIdx.y * rows_per_part;
  const int64_t end = begin + rows_per_part < rows ? begin + rows_per_part : rows;
  double sum = 0;
#pragma unroll 4
  for (int64_t n = begin; n < end; ++n) {
    const bool present = (bits[n * words + player / 64] >> (player % 64) & 1) != 0;
    const double value = static_cast<double>(widen(values[n * outputs + output]));
    sum += present ? weights[n] * value : 0.0;
  }
  parts[blockIdx.y * players * outputs + at] = sum;
}

Tensor coalition_rhs_cuda(const Tensor& bits, int64_t players, const Tensor& weights,
                          const Tensor& values) {
  check_coalition_rhs(bits, players, weights, values);
  const DeviceGuard guard(bits.get_device_index());
  const Tensor sums = empty_coalition_rhs(players, weights, values);
  if (sums.numel() == 0) return sums;
  const Tensor rows = as_contiguous(bits);
  const Tensor row_weights = as_contiguous(weights);
  const Tensor row_values = as_contiguous(values);
  const Parts cut = cut_rows(weights.numel(), sums.numel());
  const Tensor parts = torch::stable::new_empty(weights, Shape{cut.count, sums.numel()});
  const dim3 grid(blocks_for(sums.numel()), static_cast<unsigned>(cut.count));
  dispatch_floating(values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    rhs_kernel<T><<<grid, kSumThreads, 0, current_stream(bits)>>>(
        mutable_data<double>(parts), data<int64_t>(rows), data<double>(row_weights),
        data<T>(row_values), players, coalition_words(players), values.size(1), weights.numel(),
        cut.rows);
  });
  check_launch("coalition_rhs");
  sum_parts(sums, parts, cut.count);
  check_launch("coalition_rhs");
  return sums;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("coalition_rhs", TORCH_BOX(&fastxai::cuda::coalition_rhs_cuda));
}
