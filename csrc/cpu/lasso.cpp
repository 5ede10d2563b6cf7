#include "lasso.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "../common/lasso.h"
#include "../common/tensors.h"

namespace fastxai {
namespace {

// Entries of Gram matrices that one thread should at least have: fewer are not worth waking
// another.
constexpr int64_t kGrain = 16384;

Tensor lasso_cpu(const Tensor& gram, const Tensor& rhs, double alpha, double tolerance,
                 int64_t max_sweeps) {
  check_lasso(gram, rhs, alpha, tolerance, max_sweeps);
  const Tensor coefficients = empty_lasso(rhs);
  if (coefficients.numel() == 0) return coefficients;
  const int64_t players = rhs.size(1);
  const int64_t outputs = rhs.size(2);
  const Tensor matrices = as_contiguous(gram);
  const Tensor sides = as_contiguous(rhs);
  const double* matrix = data<double>(matrices);
  const double* side = data<double>(sides);
  double* to = mutable_data<double>(coefficients);
  const LassoLimits limits{alpha, tolerance, max_sweeps};
  const auto share = [&](int64_t begin, int64_t end) {
    std::vector<double> gradient(players);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t problem = unit / outputs;
      const int64_t first = problem * players * outputs + unit % outputs;
      lasso_leaf(to + first, matrix + problem * players * players, side + first, outputs,
                 gradient.data(), players, limits);
    }
  };
  const int64_t grain = std::max<int64_t>(1, kGrain / (players * players));
  torch::stable::parallel_for(0, rhs.size(0) * outputs, grain, share);
  return coefficients;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) { m.impl("lasso", TORCH_BOX(&fastxai::lasso_cpu)); }
