#include "coalition_gram.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>

#include "../common/coalition_gram.h"
#include "../common/tensors.h"

namespace fastxai {
namespace {

// Pairs of words that one thread should at least count, and squares of 64 by 64 bits that it should
// at least transpose: fewer are not worth waking another.
constexpr int64_t kPairs = 131072;
constexpr int64_t kSquares = 512;

// The classes of many rows as chunks, and the rows of all others one by one: both by rising weight.
struct Plan {
  WeightClasses weights;
  std::vector<WeightClass> counted;  // chunks [begin, end)
  std::vector<GramChunk> chunks;
  std::vector<int64_t> single_bits;  // [singles, W]
  std::vector<double> single_weights;
  std::unique_ptr<uint64_t[]> columns;
  int64_t words = 0;
};

Plan make_plan(const int64_t* bits, const double* weights, int64_t n, int64_t players) {
  Plan plan;
  const int64_t words = coalition_words(players);
  plan.weights = classes_of(weights, n);
  const int64_t* rows = plan.weights.rows.data();
  for (const WeightClass& c : plan.weights.classes) {
    if (c.end - c.begin < kCountedRows) {
      for (int64_t i = c.begin; i < c.end; ++i) {
        const int64_t* row = bits + rows[i] * words;
        plan.single_bits.insert(plan.single_bits.end(), row, row + words);
        plan.single_weights.push_back(c.weight);
      }
      continue;
    }
    const auto first = static_cast<int64_t>(plan.chunks.size());
    for (int64_t begin = c.begin; begin < c.end; begin += 64 * kChunkWords) {
      const int64_t count = std::min(64 * kChunkWords, c.end - begin);
      plan.chunks.push_back({rows + begin, count, nullptr, (count + 63) / 64});
      plan.words += plan.chunks.back().words;
    }
    plan.counted.push_back({c.weight, first, static_cast<int64_t>(plan.chunks.size())});
  }
  plan.columns = std::make_unique_for_overwrite<uint64_t[]>(plan.words * players);
  uint64_t* next = plan.columns.get();
  for (GramChunk& chunk : plan.chunks) {
    chunk.columns = next;
    next += chunk.words * players;
  }
  return plan;
}

// The rows [first, last) of the Gram matrix, up to its diagonal.
void fill_rows(double* gram, const Plan& plan, int64_t players, int64_t first, int64_t last) {
  std::fill(gram + first * players, gram + last * players, 0.0);
  std::vector<int64_t> counts((last - first) * players);
  for (const WeightClass& c : plan.counted) {
    std::fill(counts.begin(), counts.end(), 0);
    for (int64_t i = c.begin; i < c.end; ++i) {
      count_leaf(counts.data(), plan.chunks[i], players, first, last);
    }
    for (size_t i = 0; i < counts.size(); ++i) {
      gram[first * players + i] += c.weight * static_cast<double>(counts[i]);
    }
  }
  const GramRows singles{plan.single_bits.data(), plan.single_weights.data(),
                         static_cast<int64_t>(plan.single_weights.size())};
  if (singles.count == 0) return;
  for (int64_t begin = 0; begin < last; begin += 64) {
    add_rows_leaf(gram, singles, players, first, last, begin);
  }
}

Tensor coalition_gram_cpu(const Tensor& bits, int64_t players, const Tensor& weights) {
  check_coalition_gram(bits, players, weights);
  const Tensor gram = empty_coalition_gram(players, weights);
  const Tensor rows = as_contiguous(bits);
  const Tensor row_weights = as_contiguous(weights);
  const int64_t* from = data<int64_t>(rows);
  double* to = mutable_data<double>(gram);
  const Plan plan = make_plan(from, data<double>(row_weights), weights.numel(), players);

  const auto transpose = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) transpose_leaf(plan.chunks[i], from, players);
  };
  const auto chunks = static_cast<int64_t>(plan.chunks.size());
  const int64_t squares = plan.words * coalition_words(players);
  torch::stable::parallel_for(0, chunks, kSquares * chunks / (squares + 1) + 1, transpose);

  // A unit is a few rows of the matrix. The last ones are the longest: each thread gets some from
  // either end.
  const int64_t units = (players + kGramRows - 1) / kGramRows;
  const auto fill = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = kGramRows * (i % 2 == 0 ? i / 2 : units - 1 - i / 2);
      fill_rows(to, plan, players, first, std::min(first + kGramRows, players));
    }
  };
  const auto singles = static_cast<int64_t>(plan.single_weights.size());
  const int64_t work = (plan.words + 8 * singles) * kGramRows * (players + 1) / 2;
  torch::stable::parallel_for(0, units, kPairs / (work + 1) + 1, fill);

  for (int64_t i = 0; i < players; ++i) {
    for (int64_t j = 0; j < i; ++j) to[j * players + i] = to[i * players + j];
  }
  return gram;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) {
  m.impl("coalition_gram", TORCH_BOX(&fastxai::coalition_gram_cpu));
}
