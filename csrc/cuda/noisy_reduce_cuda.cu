#include <torch/csrc/stable/library.h>

#include "../common/noisy_reduce.h"
#include "../common/path_reduce.h"
#include "../common/subsets.h"
#include "launch.h"
#include "noise.h"

namespace fastxai::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMaxGridY = 65535;

// A block sums a part of some examples (blockIdx.y, in strides of the grid); a thread one counter's
// four elements, sample after sample. The block draws the baselines of kThreads samples at a time.
template <class T>
__global__ void noisy_reduce_kernel(Accumulation<T>* __restrict__ sums,
                                    const Accumulation<T>* __restrict__ acc,
                                    const T* __restrict__ grads, int64_t stride,
                                    const T* __restrict__ input, const T* __restrict__ baseline,
                                    NoisyLayout layout) {
  using A = Accumulation<T>;
  __shared__ int64_t picks[kThreads];
  const int64_t counter = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const A stdev = static_cast<A>(layout.stdev);
  for (int64_t example = blockIdx.y; example < layout.batch; example += gridDim.y) {
    const int64_t at = example * layout.features;
    A sum[4];
    for (int lane = 0; lane < 4; ++lane) {
      const int64_t i = element_of(counter, lane);
      sum[lane] = acc != nullptr && i < layout.features ? acc[at + i] : A{0};
    }
    for (int64_t s = 0; s < layout.samples; ++s) {
      if (baseline != nullptr && s % kThreads == 0) {
        __syncthreads();  // all have read the picks before
        if (s + threadIdx.x < layout.samples) {
          picks[threadIdx.x] = baseline_of(layout.first + s + threadIdx.x, layout.example + example,
                                           layout.baselines, layout.key);
        }
        __syncthreads();
      }
      float noise[4];
      noise_of(noise, counter, layout.first + s, layout.example + example, layout);
      for (int lane = 0; lane < 4; ++lane) {
        const int64_t i = element_of(counter, lane);
        if (i >= layout.features) break;
        A difference = widen(input[at + i]) + stdev * static_cast<A>(noise[lane]);
        if (baseline != nullptr) {
          difference -= widen(baseline[picks[s % kThreads] * layout.features + i]);
        }
        sum[lane] += difference * widen(grads[s * stride + at + i]);
      }
    }
    for (int lane = 0; lane < 4; ++lane) {
      const int64_t i = element_of(counter, lane);
      if (i < layout.features) sums[at + i] = sum[lane];
    }
  }
}

Tensor noisy_reduce_cuda(const std::optional<Tensor>& acc, const Tensor& grads, const Tensor& input,
                         const std::optional<Tensor>& baseline, double stdev, int64_t seed,
                         int64_t stream, int64_t samples, int64_t example, int64_t first,
                         int64_t last) {
  const NoisyArguments of{"noisy_reduce", input,   baseline, stdev, stream,
                          samples,        example, first,    last};
  check_noisy_reduce(acc, grads, of);
  const DeviceGuard guard(input.get_device_index());
  const Tensor sums = empty_noisy_reduce(input);
  if (sums.numel() == 0) return sums;
  const NoisyLayout layout = noisy_layout(of, philox_key(seed));
  const int64_t counters = (layout.features + kGroup - 1) / kGroup * kLane;
  const dim3 grid(static_cast<unsigned>((counters + kThreads - 1) / kThreads),
                  static_cast<unsigned>(std::min(kMaxGridY, layout.batch)));
  const Tensor steps = steps_are_contiguous(grads) ? grads : torch::stable::contiguous(grads);
  const Tensor so_far = acc ? as_contiguous(*acc) : sums;
  const Tensor from = as_contiguous(input);
  const Tensor start = baseline ? as_contiguous(*baseline) : from;
  dispatch_floating(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    noisy_reduce_kernel<T><<<grid, kThreads, 0, current_stream(input)>>>(
        mutable_data<Accumulation<T>>(sums), acc ? data<Accumulation<T>>(so_far) : nullptr,
        data<T>(steps), layout.samples > 1 ? steps.stride(0) : 0, data<T>(from),
        baseline ? data<T>(start) : nullptr, layout);
  });
  check_launch("noisy_reduce");
  return sums;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("noisy_reduce", TORCH_BOX(&fastxai::cuda::noisy_reduce_cuda));
}
