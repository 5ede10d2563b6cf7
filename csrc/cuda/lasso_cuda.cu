#include <torch/csrc/stable/library.h>

#include "../common/lasso.h"
#include "launch.h"

namespace fastxai::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 4;  // in a block
constexpr unsigned kAll = 0xFFFFFFFFu;

// A warp solves one problem for one output: its lanes share the gradient, and all of them work out
// each step. The arithmetic is cpu/lasso.h's.
__global__ void lasso_kernel(double* coefficients, double* gradients,
                             const double* __restrict__ grams, const double* __restrict__ rhs,
                             int64_t units, int64_t players, int64_t outputs, double alpha,
                             double tolerance, int64_t max_sweeps) {
  const int64_t unit = int64_t{blockIdx.x} * kWarps + threadIdx.y;
  if (unit >= units) return;
  const int64_t problem = unit / outputs;
  const int64_t start = problem * players * outputs + unit % outputs;
  const double* gram = grams + problem * players * players;
  double* gradient = gradients + unit * players;
  double* coefficient = coefficients + start;
  double scale = 0;
  for (int64_t j = threadIdx.x; j < players; j += kWarp) {
    const double square = gram[j * players + j];
    const double side = rhs[start + j * outputs];
    gradient[j] = side;
    coefficient[j * outputs] = 0;
    if (square > 0) scale = fmax(scale, fabs(side) / sqrt(square));
  }
  for (int lane = kWarp / 2; lane > 0; lane /= 2) {
    scale = fmax(scale, __shfl_xor_sync(kAll, scale, lane));
  }
  __syncwarp();
  for (int64_t sweep = 0; sweep < max_sweeps; ++sweep) {
    double largest = 0;
    for (int64_t j = 0; j < players; ++j) {
      const double* row = gram + j * players;
      const double square = row[j];
      const double before = coefficient[j * outputs];
      const double pull = gradient[j] + square * before;
      const double excess = fmax(fabs(pull) - alpha, 0.0);
      const double step = copysign(excess, pull) / square - before;
      __syncwarp();  // all lanes have read what is written next
      if (!(square > 0) || step == 0) continue;
      if (threadIdx.x == 0) coefficient[j * outputs] = before + step;
      for (int64_t i = threadIdx.x; i < players; i += kWarp) gradient[i] -= row[i] * step;
      largest = fmax(largest, sqrt(square) * fabs(step));
      __syncwarp();
    }
    if (!(largest > tolerance * scale)) return;
  }
}

Tensor lasso_cuda(const Tensor& gram, const Tensor& rhs, double alpha, double tolerance,
                  int64_t max_sweeps) {
  check_lasso(gram, rhs, alpha, tolerance, max_sweeps);
  const DeviceGuard guard(gram.get_device_index());
  const Tensor coefficients = empty_lasso(rhs);
  if (coefficients.numel() == 0) return coefficients;
  const int64_t players = rhs.size(1);
  const int64_t outputs = rhs.size(2);
  const int64_t units = rhs.size(0) * outputs;
  const Tensor matrices = as_contiguous(gram);
  const Tensor sides = as_contiguous(rhs);
  const Tensor gradients = torch::stable::new_empty(rhs, Shape{units, players});
  const auto blocks = static_cast<unsigned>((units + kWarps - 1) / kWarps);
  lasso_kernel<<<blocks, dim3(kWarp, kWarps), 0, current_stream(gram)>>>(
      mutable_data<double>(coefficients), mutable_data<double>(gradients), data<double>(matrices),
      data<double>(sides), units, players, outputs, alpha, tolerance, max_sweeps);
  check_launch("lasso");
  return coefficients;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("lasso", TORCH_BOX(&fastxai::cuda::lasso_cuda));
}
