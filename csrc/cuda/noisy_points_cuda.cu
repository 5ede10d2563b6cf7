#include <torch/csrc/stable/library.h>

#include "../common/noisy_points.h"
#include "../common/subsets.h"
#include "launch.h"
#include "noise.h"

namespace fastxai::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMaxGridY = 65535;

// A block writes a part of some rows (blockIdx.y, in strides of the grid); a thread one counter's
// four elements, which are kLane apart.
template <class T>
__global__ void noisy_points_kernel(T* __restrict__ rows, const T* __restrict__ input,
                                    const T* __restrict__ baseline, NoisyLayout layout,
                                    double position, bool is_placed) {
  using A = Accumulation<T>;
  __shared__ int64_t drawn;
  __shared__ double alpha_drawn;
  const int64_t counter = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const A stdev = static_cast<A>(layout.stdev);
  for (int64_t row = blockIdx.y; row < layout.samples * layout.batch; row += gridDim.y) {
    const int64_t sample = layout.first + row / layout.batch;
    const int64_t example = row % layout.batch;
    __syncthreads();  // all have read what was drawn before
    if (threadIdx.x == 0 && baseline != nullptr) {
      drawn = baseline_of(sample, layout.example + example, layout.baselines, layout.key);
      alpha_drawn = is_placed ? position
                              : position_of(sample, layout.example + example, layout.all_samples,
                                            layout.baselines, layout.key);
    }
    __syncthreads();
    float noise[4];
    noise_of(noise, counter, sample, layout.example + example, layout);
    const A alpha = static_cast<A>(baseline != nullptr ? alpha_drawn : 0);
    for (int lane = 0; lane < 4; ++lane) {
      const int64_t i = element_of(counter, lane);
      if (i >= layout.features) break;
      const A end =
          widen(input[example * layout.features + i]) + stdev * static_cast<A>(noise[lane]);
      A value = end;
      if (baseline != nullptr) {
        const A start = widen(baseline[drawn * layout.features + i]);
        value = start + alpha * (end - start);
      }
      rows[row * layout.features + i] = narrow<T>(value);
    }
  }
}

Tensor noisy_points_cuda(const Tensor& input, const std::optional<Tensor>& baseline, double stdev,
                         int64_t seed, int64_t stream, int64_t samples, int64_t example,
                         int64_t first, int64_t last, std::optional<double> position) {
  const NoisyArguments of{"noisy_points", input,   baseline, stdev, stream,
                          samples,        example, first,    last};
  check_noisy(of);
  const DeviceGuard guard(input.get_device_index());
  const Tensor rows = empty_rows(input, last - first);
  if (rows.numel() == 0) return rows;
  const NoisyLayout layout = noisy_layout(of, philox_key(seed));
  const int64_t counters = (layout.features + kGroup - 1) / kGroup * kLane;
  const dim3 grid(static_cast<unsigned>((counters + kThreads - 1) / kThreads),
                  static_cast<unsigned>(std::min(kMaxGridY, layout.samples * layout.batch)));
  const Tensor from = as_contiguous(input);
  const Tensor start = baseline ? as_contiguous(*baseline) : from;
  dispatch_floating(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    noisy_points_kernel<T><<<grid, kThreads, 0, current_stream(input)>>>(
        mutable_data<T>(rows), data<T>(from), baseline ? data<T>(start) : nullptr, layout,
        position.value_or(0), position.has_value());
  });
  check_launch("noisy_points");
  return rows;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("noisy_points", TORCH_BOX(&fastxai::cuda::noisy_points_cuda));
}
