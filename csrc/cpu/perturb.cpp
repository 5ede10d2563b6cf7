#include "perturb.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>

#include "../common/perturb.h"
#include "../common/tensors.h"

namespace fastxai {
namespace {

// Bytes that one thread should at least write: fewer are not worth waking another.
constexpr int64_t kGrainBytes = 524288;

// Writes all rows. False, and not all is written, if the mask has an id out of range.
template <class U>
bool run(const Tensor& rows, const Tensor& input, const Tensor& baseline, const Tensor& bits,
         const Tensor& mask, int64_t first, int64_t last) {
  const int64_t examples = input.size(0);
  const int64_t features = input.numel() / examples;
  const int64_t lanes_each = static_cast<int64_t>(input.element_size() / sizeof(U));
  const int64_t lanes = features * lanes_each;
  const int64_t backgrounds = baseline.size(1);
  const int64_t words = bits.size(1);
  const auto stride = [&](const Tensor& tensor, int64_t each) {
    return tensor.size(0) == 1 ? 0 : each;
  };

  // Some neighbouring backgrounds of some neighbouring coalitions.
  const auto write = [&](int64_t coalition, int64_t coalitions, int64_t background, int64_t count) {
    Perturbation<U> p{
        .rows = mutable_data<U>(rows) +
                (coalition * backgrounds + background - first) * examples * lanes,
        .coalition_stride = backgrounds * examples * lanes,
        .background_stride = examples * lanes,
        .input = {data<U>(input), stride(input, lanes), 0},
        .baseline = {data<U>(baseline) + background * lanes, stride(baseline, backgrounds * lanes),
                     lanes},
        .mask = {data<int32_t>(mask), stride(mask, features), 0},
        .lanes_each = lanes_each,
        .bits = data<int64_t>(bits) + coalition * words,
        .words = words,
        .coalitions = coalitions,
        .backgrounds = count,
        .examples = examples,
        .lanes = lanes,
    };
    if (examples == 1) {  // then the backgrounds are neighbours as examples are
      std::swap(p.examples, p.backgrounds);
      p.baseline.example_stride = lanes;
    }
    std::atomic<bool> valid = true;
    const int64_t grain = kGrainBytes / static_cast<int64_t>(p.tile_lanes() * sizeof(U));
    torch::stable::parallel_for(0, p.units(), grain, [&](int64_t begin, int64_t end) {
      if (!perturb_units(p, begin, end)) valid = false;
    });
    return valid.load();
  };

  // The first coalition may begin, and the last one end, in the middle of the backgrounds.
  bool valid = true;
  for (int64_t row = first; valid && row < last;) {
    const int64_t background = row % backgrounds;
    const bool whole = background == 0 && last - row >= backgrounds;
    const int64_t coalitions = whole ? (last - row) / backgrounds : 1;
    const int64_t count = whole ? backgrounds : std::min(backgrounds - background, last - row);
    valid = write(row / backgrounds, coalitions, background, count);
    row += coalitions * count;
  }
  return valid;
}

bool dispatch(const Tensor& rows, const Tensor& input, const Tensor& baseline, const Tensor& bits,
              const Tensor& mask, int64_t first, int64_t last) {
  switch (input.element_size()) {
    case 1:
      return run<uint8_t>(rows, input, baseline, bits, mask, first, last);
    case 2:
      return run<uint16_t>(rows, input, baseline, bits, mask, first, last);
    case 4:
      return run<uint32_t>(rows, input, baseline, bits, mask, first, last);
    default:
      return run<uint64_t>(rows, input, baseline, bits, mask, first, last);
  }
}

Tensor perturb_cpu(const Tensor& input, const Tensor& baseline, const Tensor& bits,
                   const Tensor& mask, int64_t first, int64_t last) {
  check_perturb(input, baseline, bits, mask, first, last);
  const Tensor rows = empty_rows(input, last - first);
  if (rows.numel() == 0) return rows;
  const Tensor players = as_contiguous(mask);
  if (!dispatch(rows, as_contiguous(input), as_contiguous(baseline), as_contiguous(bits), players,
                first, last)) {
    check_ids({"perturb", "mask", mask}, data<int32_t>(players), players.numel(),
              64 * bits.size(1));
  }
  return rows;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) { m.impl("perturb", TORCH_BOX(&fastxai::perturb_cpu)); }
