#include <torch/csrc/stable/library.h>

#include "../common/path_reduce.h"
#include "launch.h"

namespace fastxai::cuda {
namespace {

constexpr int kThreads = 256;
// From this many threads on, each may walk all steps alone; below it they share them.
constexpr int64_t kEnoughThreads = 65536;

// Thread (x, y) sums the steps y, y + Y, ... of N neighbouring elements; the block then adds its Y
// sums in a fixed tree. No atomics: the same bits every time.
template <class T, int N, int Y>
__global__ void reduce_kernel(Accumulation<T>* __restrict__ sums,
                              const Accumulation<T>* __restrict__ acc, const T* __restrict__ grads,
                              const double* __restrict__ weights, int64_t elements, int64_t stride,
                              int64_t steps) {
  using A = Accumulation<T>;
  constexpr int X = kThreads / Y;
  __shared__ A shared[Y > 1 ? Y * X * N : 1];
  const int64_t first = (int64_t{blockIdx.x} * X + threadIdx.x) * N;
  const bool inside = first < elements;
  A sum[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sum[i] = inside && acc != nullptr && threadIdx.y == 0 ? acc[first + i] : A{0};
  }
  if (inside) {
#pragma unroll 4
    for (int64_t s = threadIdx.y; s < steps; s += Y) {
      const auto grad = *reinterpret_cast<const Pack<T, N>*>(grads + s * stride + first);
      const A weight = static_cast<A>(weights[s]);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += weight * widen(grad.element[i]);
    }
  }
  if constexpr (Y > 1) {
#pragma unroll
    for (int i = 0; i < N; ++i) shared[(threadIdx.y * N + i) * X + threadIdx.x] = sum[i];
    for (int half = Y / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.y < half) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          shared[(threadIdx.y * N + i) * X + threadIdx.x] +=
              shared[((threadIdx.y + half) * N + i) * X + threadIdx.x];
        }
      }
    }
    if (threadIdx.y > 0) return;
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = shared[i * X + threadIdx.x];
  }
  if (!inside) return;
#pragma unroll
  for (int i = 0; i < N; ++i) sums[first + i] = sum[i];
}

template <class T, int N, int Y>
void launch(const Tensor& sums, const Accumulation<T>* acc, const Tensor& grads,
            const Tensor& weights) {
  constexpr int X = kThreads / Y;
  const int64_t elements = sums.numel();
  const int64_t steps = weights.numel();
  const int64_t threads = (elements + N - 1) / N;
  const unsigned blocks = static_cast<unsigned>((threads + X - 1) / X);
  reduce_kernel<T, N, Y><<<blocks, dim3(X, Y), 0, current_stream(grads)>>>(
      mutable_data<Accumulation<T>>(sums), acc, data<T>(grads), data<double>(weights), elements,
      steps > 1 ? grads.stride(0) : 0, steps);
}

template <class T>
void run(const Tensor& sums, const Accumulation<T>* acc, const Tensor& grads,
         const Tensor& weights) {
  constexpr int kWide = 16 / sizeof(T);
  const int64_t elements = sums.numel();
  const int64_t steps = weights.numel();
  const int64_t stride = steps > 1 ? grads.stride(0) : 0;
  const bool wide = elements >= kEnoughThreads * kWide && elements % kWide == 0 &&
                    stride % kWide == 0 && is_aligned(grads.const_data_ptr(), 16);
  if (wide) {
    launch<T, kWide, 1>(sums, acc, grads, weights);
  } else if (elements >= kEnoughThreads || steps < 8) {
    launch<T, 1, 1>(sums, acc, grads, weights);
  } else {
    launch<T, 1, 8>(sums, acc, grads, weights);
  }
}

Tensor path_reduce_cuda(const std::optional<Tensor>& acc, const Tensor& grads,
                        const Tensor& weights) {
  check_path_reduce(acc, grads, weights);
  const DeviceGuard guard(grads.get_device_index());
  const Tensor sums = empty_path_reduce(grads);
  if (sums.numel() == 0) return sums;
  const Tensor steps = steps_are_contiguous(grads) ? grads : torch::stable::contiguous(grads);
  const Tensor start = acc ? as_contiguous(*acc) : sums;
  dispatch_floating(grads.scalar_type(), [&](auto type) {
    using T = decltype(type);
    run<T>(sums, acc ? data<Accumulation<T>>(start) : nullptr, steps, as_contiguous(weights));
  });
  check_launch("path_reduce");
  return sums;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("path_reduce", TORCH_BOX(&fastxai::cuda::path_reduce_cuda));
}
