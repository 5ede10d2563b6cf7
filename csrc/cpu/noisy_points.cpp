#include "noisy_points.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/noisy_points.h"
#include "../common/subsets.h"
#include "../common/tensors.h"
#include "dispatch.h"

namespace fastxai {
namespace {

// Elements that one thread should at least write: fewer are not worth waking another.
constexpr int64_t kGrain = 32768;

template <class T>
void run(const Tensor& rows, const Tensor& input, const std::optional<Tensor>& baseline,
         const NoisyArguments& of, PhiloxKey key, std::optional<double> position) {
  const int64_t batch = input.size(0);
  const int64_t features = input.numel() / batch;
  const int64_t tiles = (features + kNoiseTile - 1) / kNoiseTile;
  const T* from = data<T>(input);
  const T* start = baseline ? data<T>(*baseline) : nullptr;
  T* to = mutable_data<T>(rows);
  const auto share = [&](int64_t begin, int64_t end) {
    int64_t drawn = 0;
    double alpha = position.value_or(0);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit / tiles;
      const int64_t first = unit % tiles * kNoiseTile;
      const int64_t sample = of.first + row / batch;
      const int64_t example = row % batch;
      if (start != nullptr && (unit == begin || first == 0)) {
        drawn = baseline_of(sample, of.example + example, baseline->size(0), key);
        if (!position) {
          alpha = position_of(sample, of.example + example, of.samples, baseline->size(0), key);
        }
      }
      noisy_leaf(to + row * features,
                 NoisyTile<T>{
                     .input = from + example * features,
                     .baseline = start == nullptr ? nullptr : start + drawn * features,
                     .alpha = alpha,
                     .stdev = of.stdev,
                     .source = {key, static_cast<uint32_t>(of.stream)},
                     .sample = sample,
                     .example = of.example + example,
                     .begin = first,
                     .n = std::min(kNoiseTile, features - first),
                 });
    }
  };
  const int64_t grain = std::max<int64_t>(1, kGrain / std::min(features, kNoiseTile));
  torch::stable::parallel_for(0, rows.numel() / features * tiles, grain, share);
}

Tensor noisy_points_cpu(const Tensor& input, const std::optional<Tensor>& baseline, double stdev,
                        int64_t seed, int64_t stream, int64_t samples, int64_t example,
                        int64_t first, int64_t last, std::optional<double> position) {
  const NoisyArguments of{"noisy_points", input,   baseline, stdev, stream,
                          samples,        example, first,    last};
  check_noisy(of);
  const Tensor rows = empty_rows(input, last - first);
  if (rows.numel() == 0) return rows;
  const Tensor from = as_contiguous(input);
  const std::optional<Tensor> start =
      baseline ? std::optional(as_contiguous(*baseline)) : std::nullopt;
  dispatch_floating(input.scalar_type(), [&](auto type) {
    run<decltype(type)>(rows, from, start, of, philox_key(seed), position);
  });
  return rows;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) {
  m.impl("noisy_points", TORCH_BOX(&fastxai::noisy_points_cpu));
}
