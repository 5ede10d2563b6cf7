#include "noisy_reduce.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "../common/noisy_reduce.h"
#include "../common/path_reduce.h"
#include "../common/subsets.h"
#include "../common/tensors.h"
#include "dispatch.h"

namespace fastxai {
namespace {

// Elements that one thread should at least read: fewer are not worth waking another.
constexpr int64_t kGrain = 32768;

template <class T>
void run(const Tensor& sums, const Accumulation<T>* acc, const Tensor& grads, const Tensor& input,
         const std::optional<Tensor>& baseline, const NoisyArguments& of, PhiloxKey key) {
  const int64_t batch = input.size(0);
  const int64_t features = input.numel() / batch;
  const int64_t samples = of.last - of.first;
  const int64_t tiles = (features + kNoiseTile - 1) / kNoiseTile;
  std::vector<int64_t> drawn(baseline ? samples * batch : 0);  // each row's baseline
  for (size_t row = 0; row < drawn.size(); ++row) {
    const auto r = static_cast<int64_t>(row);
    drawn[row] = baseline_of(of.first + r / batch, of.example + r % batch, baseline->size(0), key);
  }
  Accumulation<T>* to = mutable_data<Accumulation<T>>(sums);
  const auto share = [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t example = unit / tiles;
      const int64_t first = unit % tiles * kNoiseTile;
      const int64_t n = std::min(kNoiseTile, features - first);
      Accumulation<T>* tile = to + example * features + first;
      if (acc == nullptr) {
        std::fill_n(tile, n, Accumulation<T>{0});
      } else {
        std::copy_n(acc + example * features + first, n, tile);
      }
      noisy_reduce_leaf(tile, NoisyReduction<T>{
                                  .grads = data<T>(grads) + example * features,
                                  .stride = samples > 1 ? grads.stride(0) : 0,
                                  .input = data<T>(input) + example * features,
                                  .baseline = baseline ? data<T>(*baseline) : nullptr,
                                  .features = features,
                                  .drawn = drawn.data() + (drawn.empty() ? 0 : example),
                                  .drawn_stride = batch,
                                  .stdev = of.stdev,
                                  .source = {key, static_cast<uint32_t>(of.stream)},
                                  .first = of.first,
                                  .samples = samples,
                                  .example = of.example + example,
                                  .begin = first,
                                  .n = n,
                              });
    }
  };
  const int64_t work = std::max<int64_t>(1, samples) * std::min(features, kNoiseTile);
  torch::stable::parallel_for(0, batch * tiles, std::max<int64_t>(1, kGrain / work), share);
}

Tensor noisy_reduce_cpu(const std::optional<Tensor>& acc, const Tensor& grads, const Tensor& input,
                        const std::optional<Tensor>& baseline, double stdev, int64_t seed,
                        int64_t stream, int64_t samples, int64_t example, int64_t first,
                        int64_t last) {
  const NoisyArguments of{"noisy_reduce", input,   baseline, stdev, stream,
                          samples,        example, first,    last};
  check_noisy_reduce(acc, grads, of);
  const Tensor sums = empty_noisy_reduce(input);
  if (sums.numel() == 0) return sums;
  const Tensor steps = steps_are_contiguous(grads) ? grads : torch::stable::contiguous(grads);
  const Tensor so_far = acc ? as_contiguous(*acc) : sums;
  const Tensor from = as_contiguous(input);
  const std::optional<Tensor> start =
      baseline ? std::optional(as_contiguous(*baseline)) : std::nullopt;
  dispatch_floating(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    run<T>(sums, acc ? data<Accumulation<T>>(so_far) : nullptr, steps, from, start, of,
           philox_key(seed));
  });
  return sums;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) {
  m.impl("noisy_reduce", TORCH_BOX(&fastxai::noisy_reduce_cpu));
}
