#include <torch/csrc/stable/library.h>

#include "../common/group_linear.h"
#include "launch.h"
#include "table.h"

namespace fastxai::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

// Examples that share their positions are summed so many at a time.
constexpr int kExamplesTogether = 4;

struct Layout {
  Table positions, offsets;
  int64_t groups, examples, outputs, features;
};

// A team of threads, part of a warp, sums one output of one group for N examples from a multiple of
// N on, which share their positions if N > 1. What names values out of range is left out.
template <class T, int N>
__global__ void sum_kernel(T* __restrict__ out, const T* __restrict__ values,
                           const T* __restrict__ weight, const Layout layout, int team) {
  using A = Accumulation<T>;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t output = thread / team % layout.outputs;
  const int64_t group = thread / team / layout.outputs % layout.groups;
  const int64_t example = thread / team / layout.outputs / layout.groups * N;
  const bool inside = example < layout.examples;
  const int64_t size = layout.positions.columns;
  int64_t begin = 0, end = 0;
  if (inside) {
    begin = __ldg(layout.offsets.row(example) + group);
    end = __ldg(layout.offsets.row(example) + group + 1);
    if (begin < 0 || end > size) begin = end;
  }
  const int64_t* positions = layout.positions.row(example);
  const T* column = weight + output * layout.features;
  A sum[N] = {};
  for (int64_t i = begin + thread % team; i < end; i += team) {
    const int64_t position = __ldg(positions + i);
    if (position < 0 || position >= layout.features) continue;
    const A factor = widen(column[position]);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      // The last examples repeat: what comes of that is not kept.
      const int64_t row = example + n < layout.examples ? example + n : layout.examples - 1;
      sum[n] += widen(values[row * size + i]) * factor;
    }
  }
  // Teams that have no sum take part too: a shuffle is the whole warp's.
  for (int distance = team / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int n = 0; n < N; ++n) sum[n] += __shfl_xor_sync(~0u, sum[n], distance);
  }
  if (thread % team != 0) return;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if (example + n >= layout.examples) break;
    out[(group * layout.examples + example + n) * layout.outputs + output] = narrow<T>(sum[n]);
  }
}

template <class T, int N>
void run(const Tensor& out, const Tensor& values, const Tensor& weight, const Layout& layout) {
  // As many threads as a group has positions on average.
  int team = 1;
  while (team < kWarp && team * layout.groups < layout.positions.columns) team *= 2;
  const int64_t blocks_of_examples = (layout.examples + N - 1) / N;
  const int64_t threads = blocks_of_examples * layout.groups * layout.outputs * team;
  sum_kernel<T, N><<<static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads, 0,
                     current_stream(values)>>>(mutable_data<T>(out), data<T>(values),
                                               data<T>(weight), layout, team);
  check_launch("group_linear");
}

Tensor group_linear_cuda(const Tensor& values, const Tensor& positions, const Tensor& offsets,
                         const Tensor& weight) {
  check_group_linear(values, positions, offsets, weight);
  const DeviceGuard guard(values.get_device_index());
  const Tensor out = empty_group_linear(values, offsets, weight);
  if (out.numel() == 0) return out;
  const Tensor from = as_contiguous(values), rows = as_contiguous(weight);
  const Tensor tables[] = {as_contiguous(positions), as_contiguous(offsets)};
  const Layout layout{
      .positions = table_of(tables[0]),
      .offsets = table_of(tables[1]),
      .groups = offsets.size(1) - 1,
      .examples = values.size(0),
      .outputs = weight.size(0),
      .features = weight.size(1),
  };
  const bool shared = layout.positions.one_for_all && layout.offsets.one_for_all;
  dispatch_floating(values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    if (shared && layout.examples >= kExamplesTogether) {
      run<T, kExamplesTogether>(out, from, rows, layout);
    } else {
      run<T, 1>(out, from, rows, layout);
    }
  });
  return out;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("group_linear", TORCH_BOX(&fastxai::cuda::group_linear_cuda));
}
