#include "path_reduce.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/path_reduce.h"
#include "../common/tensors.h"
#include "dispatch.h"

namespace fastxai {
namespace {

// Elements that one thread should at least read: fewer are not worth waking another.
constexpr int64_t kGrain = 131072;

template <class T>
void run(const Tensor& sums, const Accumulation<T>* acc, const Tensor& grads,
         const Tensor& weights) {
  const int64_t steps = weights.numel();
  const int64_t stride = steps > 1 ? grads.stride(0) : 0;
  const T* from = data<T>(grads);
  const double* weight = data<double>(weights);
  Accumulation<T>* to = mutable_data<Accumulation<T>>(sums);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, steps));
  const auto share = [&](int64_t begin, int64_t end) {
    reduce_leaf(to, acc, from, stride, weight, steps, begin, end);
  };
  torch::stable::parallel_for(0, sums.numel(), grain, share);
}

Tensor path_reduce_cpu(const std::optional<Tensor>& acc, const Tensor& grads,
                       const Tensor& weights) {
  check_path_reduce(acc, grads, weights);
  const Tensor sums = empty_path_reduce(grads);
  if (sums.numel() == 0) return sums;
  const Tensor steps = steps_are_contiguous(grads) ? grads : torch::stable::contiguous(grads);
  const Tensor start = acc ? as_contiguous(*acc) : sums;
  dispatch_floating(grads.scalar_type(), [&](auto type) {
    using T = decltype(type);
    run<T>(sums, acc ? data<Accumulation<T>>(start) : nullptr, steps, as_contiguous(weights));
  });
  return sums;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) {
  m.impl("path_reduce", TORCH_BOX(&fastxai::path_reduce_cpu));
}
