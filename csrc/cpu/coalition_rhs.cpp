#include "coalition_rhs.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "../common/coalition_rhs.h"
#include "../common/tensors.h"
#include "dispatch.h"

namespace fastxai {
namespace {

// Rows that one thread should at least add: fewer are not worth waking another.
constexpr int64_t kGrain = 8192;

// Blocks of rows are as long as this at least, and so many at most.
constexpr int64_t kRows = 1024;
constexpr int64_t kBlocks = 64;

template <class T>
void run(const Tensor& sums, const Tensor& bits, const Tensor& weights, const Tensor& values) {
  const int64_t rows = bits.size(0);
  const int64_t words = bits.size(1);
  const int64_t players = sums.size(0);
  const int64_t outputs = sums.size(1);
  const int64_t* from = data<int64_t>(bits);
  const double* weight = data<double>(weights);
  const T* value = data<T>(values);
  double* to = mutable_data<double>(sums);

  // A slice is a word of players and a few outputs; where there are few slices, blocks of rows are
  // summed apart and then added in order. The shapes alone say how many.
  const int width = rhs_width(outputs);
  const int64_t across = (outputs + width - 1) / width;
  const int64_t slices = words * across;
  const int64_t blocks =
      std::max<int64_t>(1, std::min((rows + kRows - 1) / kRows, kBlocks / slices));
  const int64_t length = (rows + blocks - 1) / blocks;
  const int64_t size = 64 * width;
  std::vector<double> parts(slices * blocks * size);
  const auto share = [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t word = unit / blocks / across;
      const int64_t column = unit / blocks % across * width;
      const int64_t first = unit % blocks * length;  // the last block may be empty
      rhs_leaf(width, parts.data() + unit * size,
               {from + word, words, weight, value + column, outputs, first,
                std::min(rows, first + length), std::min<int64_t>(64, players - 64 * word),
                std::min<int64_t>(width, outputs - column)});
    }
  };
  torch::stable::parallel_for(0, slices * blocks, std::max<int64_t>(1, kGrain / (length + 1)),
                              share);
  for (int64_t j = 0; j < players; ++j) {
    for (int64_t c = 0; c < outputs; ++c) {
      const int64_t slice = j / 64 * across + c / width;
      const double* part = parts.data() + slice * blocks * size + j % 64 * width + c % width;
      double sum = 0;
      for (int64_t b = 0; b < blocks; ++b) sum += part[b * size];
      to[j * outputs + c] = sum;
    }
  }
}

Tensor coalition_rhs_cpu(const Tensor& bits, int64_t players, const Tensor& weights,
                         const Tensor& values) {
  check_coalition_rhs(bits, players, weights, values);
  const Tensor sums = empty_coalition_rhs(players, weights, values);
  if (sums.numel() == 0) return sums;
  dispatch_floating(values.scalar_type(), [&](auto type) {
    run<decltype(type)>(sums, as_contiguous(bits), as_contiguous(weights), as_contiguous(values));
  });
  return sums;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) {
  m.impl("coalition_rhs", TORCH_BOX(&fastxai::coalition_rhs_cpu));
}
