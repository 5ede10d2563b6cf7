#include <torch/csrc/stable/library.h>

#include "../common/ablate_one.h"
#include "launch.h"
#include "table.h"

namespace fastxai::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostRowsPerThread = 16;
constexpr int64_t kEnoughThreads = 1 << 17;

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

// A thread keeps one word of the input and writes it to some rows.
template <class U>
__global__ void copy_kernel(U* __restrict__ rows, const U* __restrict__ input, int64_t words,
                            int64_t count, int64_t rows_each) {
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t begin = thread / words * rows_each;
  if (begin >= count) return;
  const int64_t end = begin + rows_each < count ? begin + rows_each : count;
  const U word = input[thread % words];
  for (int64_t row = begin; row < end; ++row) rows[row * words + thread % words] = word;
}

struct Layout {
  Table source, positions, offsets;
  int64_t first, last, examples, features, baselines;
};

// A team of threads replaces one group in one example's row; ids out of range are left out.
template <class U>
__global__ void patch_kernel(U* __restrict__ rows, const U* __restrict__ baseline,
                             const Layout layout, int64_t team) {
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t row = thread / team;
  const int64_t group = layout.first + row / layout.examples;
  const int64_t example = row % layout.examples;
  if (group >= layout.last) return;
  const int64_t source = __ldg(layout.source.row(group) + example);
  if (source < 0 || source >= layout.baselines) return;
  const int64_t begin = __ldg(layout.offsets.row(example) + group);
  const int64_t end = __ldg(layout.offsets.row(example) + group + 1);
  if (begin < 0 || end > layout.positions.columns) return;
  const int64_t* positions = layout.positions.row(example);
  for (int64_t i = begin + thread % team; i < end; i += team) {
    const int64_t position = __ldg(positions + i);
    if (position < 0 || position >= layout.features) continue;
    rows[row * layout.features + position] = baseline[source * layout.features + position];
  }
}

template <class U>
void copy(const Tensor& rows, const Tensor& input) {
  const int64_t words =
      input.numel() * static_cast<int64_t>(input.element_size()) / static_cast<int64_t>(sizeof(U));
  const int64_t count = rows.size(0);
  const int64_t rows_each =
      std::clamp<int64_t>(words * count / kEnoughThreads, 1, kMostRowsPerThread);
  const int64_t threads = words * ((count + rows_each - 1) / rows_each);
  copy_kernel<<<blocks_for(threads), kThreads, 0, current_stream(input)>>>(
      mutable_data<U>(rows), data<U>(input), words, count, rows_each);
  check_launch("ablate_one");
}

template <class U>
void run(const Tensor& rows, const Tensor& input, const Tensor& baseline, const Layout& layout) {
  const bool wide = input.numel() * static_cast<int64_t>(input.element_size()) % 16 == 0 &&
                    is_aligned(rows.const_data_ptr(), 16) && is_aligned(input.const_data_ptr(), 16);
  if (wide) {
    copy<uint4>(rows, input);
  } else {
    copy<U>(rows, input);
  }
  // As many threads as a group has positions on average.
  const int64_t groups = layout.offsets.columns - 1;
  int64_t team = 1;
  while (team < kThreads && team * groups < layout.positions.columns) team *= 2;
  const int64_t threads = (layout.last - layout.first) * layout.examples * team;
  patch_kernel<<<blocks_for(threads), kThreads, 0, current_stream(input)>>>(
      mutable_data<U>(rows), data<U>(baseline), layout, team);
  check_launch("ablate_one");
}

Tensor ablate_one_cuda(const Tensor& input, const Tensor& baseline, const Tensor& source,
                       const Tensor& positions, const Tensor& offsets, int64_t first,
                       int64_t last) {
  check_ablate_one(input, baseline, source, positions, offsets, first, last);
  const DeviceGuard guard(input.get_device_index());
  const Tensor rows = empty_rows(input, last - first);
  if (rows.numel() == 0) return rows;
  const Tensor tables[] = {as_contiguous(source), as_contiguous(positions), as_contiguous(offsets)};
  const Layout layout{
      .source = table_of(tables[0]),
      .positions = table_of(tables[1]),
      .offsets = table_of(tables[2]),
      .first = first,
      .last = last,
      .examples = input.size(0),
      .features = input.numel() / input.size(0),
      .baselines = baseline.size(0),
  };
  dispatch_size(input.element_size(), [&](auto type) {
    run<decltype(type)>(rows, as_contiguous(input), as_contiguous(baseline), layout);
  });
  return rows;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("ablate_one", TORCH_BOX(&fastxai::cuda::ablate_one_cuda));
}
