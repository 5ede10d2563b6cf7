#include "coalitions.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/coalitions.h"
#include "../common/tensors.h"

namespace fastxai {
namespace {

// Rows that one thread should at least draw: fewer are not worth waking another.
constexpr int64_t kGrain = 2048;

void check_sizes(int64_t players, const Tensor& sizes) {
  const int64_t* size = data<int64_t>(sizes);
  for (int64_t n = 0; n < sizes.numel(); ++n) {
    if (size[n] < -1 || size[n] > players) {
      fail({"coalitions", "sizes", sizes}, "from -1 to ", players, ", got ", size[n], " in row ",
           n);
    }
  }
}

void check_ranks(const Tensor& sizes, const Tensor& ranks, const SubsetTables& tables) {
  const int64_t* size = data<int64_t>(sizes);
  const int64_t* rank = data<int64_t>(ranks);
  for (int64_t n = 0; n < sizes.numel(); ++n) {
    const bool numbered = size[n] >= 0 && tables.is_numbered(size[n]);
    const int64_t most = numbered ? tables.order(size[n]).count - 1 : INT64_MAX;
    if (rank[n] < 0 || rank[n] > most) {
      fail({"coalitions", "ranks", ranks}, "from 0 to ", most, " for size ", size[n], ", got ",
           rank[n], " in row ", n);
    }
  }
}

Tensor coalitions_cpu(int64_t players, const Tensor& sizes, const Tensor& ranks, int64_t seed) {
  check_coalitions(players, sizes, ranks);
  const Tensor bits = empty_coalitions(players, sizes);
  if (bits.numel() == 0) return bits;
  const Tensor size = as_contiguous(sizes);
  const Tensor rank = as_contiguous(ranks);
  check_sizes(players, size);
  const int64_t* first = data<int64_t>(size);
  const bool coins_alone = *std::max_element(first, first + size.numel()) < 0;
  const SubsetTables tables(players, seed, coins_alone);
  check_ranks(size, rank, tables);
  int64_t* to = mutable_data<int64_t>(bits);
  const auto share = [&](int64_t begin, int64_t end) {
    coalitions_leaf(to, first, data<int64_t>(rank), begin, end, tables);
  };
  const int64_t grain = std::max<int64_t>(1, kGrain / bits.size(1));
  torch::stable::parallel_for(0, sizes.numel(), grain, share);
  return bits;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) {
  m.impl("coalitions", TORCH_BOX(&fastxai::coalitions_cpu));
}
