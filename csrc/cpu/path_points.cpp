#include "path_points.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/path_points.h"
#include "../common/tensors.h"
#include "dispatch.h"

namespace fastxai {
namespace {

// Elements that one thread should at least write: fewer are not worth waking another.
constexpr int64_t kGrain = 131072;

template <class T>
void run(const Tensor& points, const Tensor& input, const Tensor& baseline, const Tensor& alphas) {
  const int64_t elements = input.numel();
  const int64_t steps = alphas.numel();
  const int64_t period = baseline.numel();
  const int64_t tiles = (elements + kPointsTile - 1) / kPointsTile;
  const T* from = data<T>(input);
  const T* start = data<T>(baseline);
  const double* alpha = data<double>(alphas);
  T* to = mutable_data<T>(points);
  // One unit is one tile of one step; the steps of a tile are neighbours, so that a thread's share
  // is a few tiles with many steps each, and there is enough to share even for a single tile.
  const int64_t grain = kGrain / std::min(elements, kPointsTile);
  const auto share = [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end;) {
      const int64_t tile = unit / steps;
      const int64_t step = unit % steps;
      const int64_t count = std::min(steps - step, end - unit);
      const int64_t first = tile * kPointsTile;
      points_leaf(to + step * elements, elements, from, start, period, first,
                  std::min(kPointsTile, elements - first), alpha + step, count);
      unit += count;
    }
  };
  torch::stable::parallel_for(0, tiles * steps, grain, share);
}

Tensor path_points_cpu(const Tensor& input, const Tensor& baseline, const Tensor& alphas) {
  check_path_points(input, baseline, alphas);
  const Tensor points = empty_rows(input, alphas.numel());
  if (points.numel() == 0) return points;
  dispatch_floating(input.scalar_type(), [&](auto type) {
    run<decltype(type)>(points, as_contiguous(input), as_contiguous(baseline),
                        as_contiguous(alphas));
  });
  return points;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) {
  m.impl("path_points", TORCH_BOX(&fastxai::path_points_cpu));
}
