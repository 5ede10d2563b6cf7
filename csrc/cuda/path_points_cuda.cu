#include <torch/csrc/stable/library.h>

#include "../common/path_points.h"
#include "launch.h"

namespace fastxai::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kStepsPerThread = 16;
constexpr int64_t kMaxGridY = 65535;

// A thread keeps N neighbouring elements of input and baseline and writes them for its steps: each
// is read once for many writes. Steps are shared out over blockIdx.y.
template <class T, int N>
__global__ void points_kernel(T* __restrict__ points, const T* __restrict__ input,
                              const T* __restrict__ baseline, const double* __restrict__ alphas,
                              int64_t elements, int64_t period, int64_t steps) {
  using A = Accumulation<T>;
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  if (first >= elements) return;
  const auto ends = *reinterpret_cast<const Pack<T, N>*>(input + first);
  const auto starts = *reinterpret_cast<const Pack<T, N>*>(baseline + first % period);
  A start[N];
  A difference[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    start[i] = widen(starts.element[i]);
    difference[i] = widen(ends.element[i]) - start[i];
  }
  for (int64_t block = blockIdx.y; block * kStepsPerThread < steps; block += gridDim.y) {
    const int64_t begin = block * kStepsPerThread;
    const int64_t end = begin + kStepsPerThread < steps ? begin + kStepsPerThread : steps;
    for (int64_t s = begin; s < end; ++s) {
      const A alpha = static_cast<A>(alphas[s]);
      Pack<T, N> row;
#pragma unroll
      for (int i = 0; i < N; ++i) row.element[i] = narrow<T>(start[i] + alpha * difference[i]);
      *reinterpret_cast<Pack<T, N>*>(points + s * elements + first) = row;
    }
  }
}

template <class T, int N>
void launch(const Tensor& points, const Tensor& input, const Tensor& baseline,
            const Tensor& alphas) {
  const int64_t elements = input.numel();
  const int64_t steps = alphas.numel();
  const int64_t threads = (elements + N - 1) / N;
  const dim3 grid(
      static_cast<unsigned>((threads + kThreads - 1) / kThreads),
      static_cast<unsigned>(std::min(kMaxGridY, (steps + kStepsPerThread - 1) / kStepsPerThread)));
  points_kernel<T, N><<<grid, kThreads, 0, current_stream(input)>>>(
      mutable_data<T>(points), data<T>(input), data<T>(baseline), data<double>(alphas), elements,
      baseline.numel(), steps);
}

template <class T>
void run(const Tensor& points, const Tensor& input, const Tensor& baseline, const Tensor& alphas) {
  constexpr int kWide = 16 / sizeof(T);
  const bool wide = baseline.numel() % kWide == 0 && is_aligned(points.const_data_ptr(), 16) &&
                    is_aligned(input.const_data_ptr(), 16) &&
                    is_aligned(baseline.const_data_ptr(), 16);
  if (wide) {
    launch<T, kWide>(points, input, baseline, alphas);
  } else {
    launch<T, 1>(points, input, baseline, alphas);
  }
}

Tensor path_points_cuda(const Tensor& input, const Tensor& baseline, const Tensor& alphas) {
  check_path_points(input, baseline, alphas);
  const DeviceGuard guard(input.get_device_index());
  const Tensor points = empty_rows(input, alphas.numel());
  if (points.numel() == 0) return points;
  dispatch_floating(input.scalar_type(), [&](auto type) {
    run<decltype(type)>(points, as_contiguous(input), as_contiguous(baseline),
                        as_contiguous(alphas));
  });
  check_launch("path_points");
  return points;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("path_points", TORCH_BOX(&fastxai::cuda::path_points_cuda));
}
