// Sums over many rows, in the same order every time: each block of threads sums a part of the rows,
// and a second kernel adds the parts.
#pragma once

#include "launch.h"

namespace fastxai::cuda {

constexpr int kSumThreads = 256;

// How the rows are cut: a part has `rows` rows, the last one what is left.
struct Parts {
  int64_t count;
  int64_t rows;
};

// Enough parts to fill a GPU where there are few sums, and none of them short. The shapes alone say
// how many.
inline Parts cut_rows(int64_t rows, int64_t sums) {
  constexpr int64_t kThreads = 1 << 20;
  constexpr int64_t kLeastRows = 64;
  constexpr int64_t kMostParts = 4096;
  const int64_t wanted = std::min(kMostParts, kThreads / std::max<int64_t>(1, sums));
  const int64_t count = std::max<int64_t>(1, std::min(wanted, rows / kLeastRows));
  return {count, (rows + count - 1) / count};
}

inline unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kSumThreads - 1) / kSumThreads);
}

static __global__ void sum_parts_kernel(double* __restrict__ sums, const double* __restrict__ parts,
                                        int64_t size, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= size) return;
  double sum = 0;
  for (int64_t part = 0; part < count; ++part) sum += parts[part * size + i];
  sums[i] = sum;
}

inline void sum_parts(const Tensor& sums, const Tensor& parts, int64_t count) {
  const int64_t size = sums.numel();
  sum_parts_kernel<<<blocks_for(size), kSumThreads, 0, current_stream(sums)>>>(
      mutable_data<double>(sums), data<double>(parts), size, count);
}

}  // namespace fastxai::cuda
