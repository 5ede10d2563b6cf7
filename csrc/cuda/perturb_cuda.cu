#include <torch/csrc/stable/library.h>

#include "../common/perturb.h"
#include "launch.h"

namespace fastxai::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostRowsPerThread = 16;
constexpr int64_t kEnoughThreads = 1 << 17;

struct Layout {
  int64_t elements, features;            // of a row [B, *F], of an example [*F]
  int64_t backgrounds, words;            // K, W
  int64_t baseline_stride, mask_stride;  // from example to example; 0: one for all
  int64_t first, last, rows_each;
};

// A thread keeps N neighbouring elements of the input and their players, and writes them for some
// rows. kWhole: they belong to one example, so that their baseline is one word too.
template <class U, int N, bool kWhole>
__global__ void perturb_kernel(U* __restrict__ rows, const U* __restrict__ input,
                               const U* __restrict__ baseline, const int64_t* __restrict__ bits,
                               const int32_t* __restrict__ mask, const Layout layout) {
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t packs = layout.elements / N;
  const int64_t element = thread % packs * N;
  int64_t row = layout.first + thread / packs * layout.rows_each;
  const int64_t end = row + layout.rows_each < layout.last ? row + layout.rows_each : layout.last;
  if (row >= end) return;

  const auto present = *reinterpret_cast<const Pack<U, N>*>(input + element);
  Pack<U, N> absent;
  int64_t offset[kWhole ? 1 : N];  // in the baseline, of the first background
  int32_t player[N];               // -1, absent, where out of range
  int64_t example = element / layout.features;
  int64_t feature = element % layout.features;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int32_t id = __ldg(mask + example * layout.mask_stride + feature);
    player[i] = 0 <= id && id < 64 * layout.words ? id : -1;
    if (i == 0 || !kWhole) offset[i] = example * layout.baseline_stride + feature;
    if (++feature == layout.features) {
      feature = 0;
      ++example;
    }
  }

  int64_t coalition = row / layout.backgrounds;
  int64_t background = row % layout.backgrounds;
  for (bool load = true; row < end; ++row) {
    if (load) {
      const U* from = baseline + background * layout.features;
      if constexpr (kWhole) {
        absent = *reinterpret_cast<const Pack<U, N>*>(from + offset[0]);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) absent.element[i] = from[offset[i]];
      }
      load = layout.backgrounds > 1;
    }
    // Half words: shifting 64 bits takes several instructions.
    const auto* halves = reinterpret_cast<const uint32_t*>(bits + coalition * layout.words);
    const uint32_t low = layout.words == 1 ? __ldg(halves) : 0;
    const uint32_t high = layout.words == 1 ? __ldg(halves + 1) : 0;
    Pack<U, N> chosen;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      uint32_t half = player[i] < 32 ? low : high;
      if (layout.words > 1 && player[i] >= 0) half = __ldg(halves + player[i] / 32);
      const bool is_present = player[i] >= 0 && (half >> (player[i] & 31) & 1) != 0;
      chosen.element[i] = is_present ? present.element[i] : absent.element[i];
    }
    *reinterpret_cast<Pack<U, N>*>(rows + (row - layout.first) * layout.elements + element) =
        chosen;
    if (++background == layout.backgrounds) {
      background = 0;
      ++coalition;
    }
  }
}

template <class U, int N, bool kWhole>
void launch(const Tensor& rows, const Tensor& input, const Tensor& baseline, const Tensor& bits,
            const Tensor& mask, Layout layout) {
  const int64_t packs = layout.elements / N;
  const int64_t count = layout.last - layout.first;
  layout.rows_each = std::clamp<int64_t>(packs * count / kEnoughThreads, 1, kMostRowsPerThread);
  const int64_t threads = packs * ((count + layout.rows_each - 1) / layout.rows_each);
  const auto blocks = static_cast<unsigned>((threads + kThreads - 1) / kThreads);
  perturb_kernel<U, N, kWhole><<<blocks, kThreads, 0, current_stream(input)>>>(
      mutable_data<U>(rows), data<U>(input), data<U>(baseline), data<int64_t>(bits),
      data<int32_t>(mask), layout);
}

template <class U>
void run(const Tensor& rows, const Tensor& input, const Tensor& baseline, const Tensor& bits,
         const Tensor& mask, const Layout& layout) {
  constexpr int kWide = 16 / sizeof(U);
  const bool wide = layout.elements % kWide == 0 && is_aligned(rows.const_data_ptr(), 16) &&
                    is_aligned(input.const_data_ptr(), 16);
  const bool whole = layout.features % kWide == 0 && is_aligned(baseline.const_data_ptr(), 16);
  if (wide && whole) {
    launch<U, kWide, true>(rows, input, baseline, bits, mask, layout);
  } else if (wide) {
    launch<U, kWide, false>(rows, input, baseline, bits, mask, layout);
  } else {
    launch<U, 1, true>(rows, input, baseline, bits, mask, layout);
  }
}

Tensor perturb_cuda(const Tensor& input, const Tensor& baseline, const Tensor& bits,
                    const Tensor& mask, int64_t first, int64_t last) {
  check_perturb(input, baseline, bits, mask, first, last);
  const DeviceGuard guard(input.get_device_index());
  const Tensor rows = empty_rows(input, last - first);
  if (rows.numel() == 0) return rows;
  const Layout layout{
      .elements = input.numel(),
      .features = input.numel() / input.size(0),
      .backgrounds = baseline.size(1),
      .words = bits.size(1),
      .baseline_stride = baseline.size(0) == 1 ? 0 : baseline.numel() / input.size(0),
      .mask_stride = mask.size(0) == 1 ? 0 : mask.numel() / input.size(0),
      .first = first,
      .last = last,
      .rows_each = 1,
  };
  dispatch_size(input.element_size(), [&](auto type) {
    run<decltype(type)>(rows, as_contiguous(input), as_contiguous(baseline), as_contiguous(bits),
                        as_contiguous(mask), layout);
  });
  check_launch("perturb");
  return rows;
}

}  // namespace
}  // namespace fastxai::cuda

STABLE_TORCH_LIBRARY_IMPL(fastxai, CUDA, m) {
  m.impl("perturb", TORCH_BOX(&fastxai::cuda::perturb_cuda));
}
