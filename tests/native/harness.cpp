// Binds the torch-free headers of csrc/ for pytest. Built by conftest.py; not part of the package.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "common/draws.h"
#include "common/float16.h"
#include "common/isa.h"
#include "common/philox.h"
#include "common/subsets.h"
#include "cpu/ablate_one.h"
#include "cpu/coalition_gram.h"
#include "cpu/coalition_rhs.h"
#include "cpu/coalitions.h"
#include "cpu/group_linear.h"
#include "cpu/lasso.h"
#include "cpu/noisy_points.h"
#include "cpu/noisy_reduce.h"
#include "cpu/path_points.h"
#include "cpu/path_reduce.h"
#include "cpu/perturb.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Half and BFloat16 travel as their bits.
template <class T>
struct BitsOf {
  using type = T;
};
template <>
struct BitsOf<fastxai::Half> {
  using type = uint16_t;
};
template <>
struct BitsOf<fastxai::BFloat16> {
  using type = uint16_t;
};
template <class T>
using Bits = typename BitsOf<T>::type;

template <class T>
const T* pointer(const Array<Bits<T>>& array) {
  return reinterpret_cast<const T*>(array.data());
}

template <class T>
Array<float> widen_all(const Array<uint16_t>& bits) {
  Array<float> values(bits.size());
  for (py::ssize_t i = 0; i < bits.size(); ++i) {
    values.mutable_data()[i] = fastxai::widen(T{bits.data()[i]});
  }
  return values;
}

template <class T>
Array<uint16_t> narrow_all(const Array<float>& values) {
  Array<uint16_t> bits(values.size());
  for (py::ssize_t i = 0; i < values.size(); ++i) {
    bits.mutable_data()[i] = fastxai::Narrow<T>::from(values.data()[i]).bits;
  }
  return bits;
}

// One tile [begin, begin + n) of all points; the rest of the [S, N] result keeps its fill.
template <class T>
Array<Bits<T>> points(const Array<Bits<T>>& input, const Array<Bits<T>>& baseline,
                      const Array<double>& alphas, int64_t begin, int64_t n, Bits<T> fill) {
  if (n > fastxai::kPointsTile || begin + n > input.size()) throw std::out_of_range("tile");
  Array<Bits<T>> result({alphas.size(), input.size()});
  std::fill_n(result.mutable_data(), result.size(), fill);
  fastxai::points_leaf(reinterpret_cast<T*>(result.mutable_data()), input.size(), pointer<T>(input),
                       pointer<T>(baseline), baseline.size(), begin, n, alphas.data(),
                       alphas.size());
  return result;
}

// acc + the weighted sum of elements [begin, end); the rest of the [N] result keeps its fill.
template <class T>
Array<fastxai::Accumulation<T>> reduce(const std::optional<Array<fastxai::Accumulation<T>>>& acc,
                                       const Array<Bits<T>>& grads, const Array<double>& weights,
                                       int64_t begin, int64_t end, fastxai::Accumulation<T> fill) {
  using A = fastxai::Accumulation<T>;
  const int64_t elements = grads.shape(1);
  if (end > elements) throw std::out_of_range("range");
  Array<A> result(elements);
  std::fill_n(result.mutable_data(), elements, fill);
  const A* start = acc ? acc->data() : nullptr;
  fastxai::reduce_leaf(result.mutable_data(), start, pointer<T>(grads), elements, weights.data(),
                       weights.size(), begin, end);
  return result;
}

// Units [begin, end) of all rows [N, K, B, lanes], of which the rest keeps its fill; how many units
// there are, and whether the mask's ids are in range.
template <class U>
py::tuple perturb(const Array<U>& input, const Array<U>& baseline, const Array<int64_t>& bits,
                  const Array<int32_t>& mask, int64_t begin, int64_t end, U fill) {
  const int64_t examples = input.shape(0), lanes = input.shape(1), backgrounds = baseline.shape(1);
  Array<U> rows({bits.shape(0), backgrounds, examples, lanes});
  std::fill_n(rows.mutable_data(), rows.size(), fill);
  const fastxai::Perturbation<U> p{
      .rows = rows.mutable_data(),
      .coalition_stride = backgrounds * examples * lanes,
      .background_stride = examples * lanes,
      .input = {input.data(), examples == 1 ? 0 : lanes, 0},
      .baseline = {baseline.data(), baseline.shape(0) == 1 ? 0 : backgrounds * lanes, lanes},
      .mask = {mask.data(), mask.shape(0) == 1 ? 0 : mask.shape(1), 0},
      .lanes_each = lanes / mask.shape(1),
      .bits = bits.data(),
      .words = bits.shape(1),
      .coalitions = bits.shape(0),
      .backgrounds = backgrounds,
      .examples = examples,
      .lanes = lanes,
  };
  const bool valid = fastxai::perturb_units(p, begin, std::min(end, p.units()));
  return py::make_tuple(rows, p.units(), valid);
}

fastxai::Table table(const Array<int64_t>& array) {
  return {array.data(), array.shape(1), array.shape(0) == 1};
}

// Rows [begin, end) of [G, B, F], of which the rest keeps its fill, and whether all ids are in
// range.
template <class U>
py::tuple ablate(const Array<U>& input, const Array<U>& baseline, const Array<int64_t>& source,
                 const Array<int64_t>& positions, const Array<int64_t>& offsets, int64_t begin,
                 int64_t end, U fill) {
  const int64_t groups = offsets.shape(1) - 1, examples = input.shape(0);
  if (end > groups * examples) throw std::out_of_range("rows");
  Array<U> rows({groups, examples, static_cast<int64_t>(input.shape(1))});
  std::fill_n(rows.mutable_data(), rows.size(), fill);
  const fastxai::Ablation<U> a{
      .rows = rows.mutable_data(),
      .input = input.data(),
      .baseline = baseline.data(),
      .source = table(source),
      .positions = table(positions),
      .offsets = table(offsets),
      .first = 0,
      .examples = examples,
      .features = input.shape(1),
      .baselines = baseline.shape(0),
  };
  const bool valid = fastxai::ablate_rows(a, begin, end);
  return py::make_tuple(rows, valid);
}

// First and last of the positions in use, and whether all offsets are in range.
py::tuple position_range(const Array<int64_t>& positions, const Array<int64_t>& offsets,
                         int64_t examples) {
  const auto range = fastxai::position_range(table(positions), table(offsets), examples);
  return py::make_tuple(range.first, range.last, range.valid);
}

// Units [begin, end) of [G, B, H], of which the rest keeps its fill; how many units there are.
template <class T>
py::tuple group_linear(const Array<T>& values, const Array<int64_t>& positions,
                       const Array<int64_t>& offsets, const Array<T>& weight, int64_t first,
                       int64_t last, int64_t begin, int64_t end, T fill) {
  const int64_t groups = offsets.shape(1) - 1, examples = values.shape(0);
  const int64_t outputs = weight.shape(0);
  Array<T> out({groups, examples, outputs});
  std::fill_n(out.mutable_data(), out.size(), fill);
  const fastxai::GroupLinear<T> op{
      .out = out.mutable_data(),
      .values = values.data(),
      .positions = table(positions),
      .offsets = table(offsets),
      .weight = weight.data(),
      .groups = groups,
      .examples = examples,
      .outputs = outputs,
      .features = weight.shape(1),
      .first = first,
      .last = last,
  };
  const int64_t units = fastxai::columns_of(op) * fastxai::example_blocks_of(op);
  std::vector<fastxai::Column<T>> columns(last - first);
  fastxai::group_linear_leaf(op, columns.data(), begin, std::min(end, units));
  return py::make_tuple(out, units);
}

// Subsets of one size by number, [N, W], one by one: from the table of binomials, or without it.
Array<int64_t> unrank(int64_t players, int64_t size, const Array<int64_t>& numbers,
                      bool tabulated) {
  const int64_t words = (players + 63) / 64;
  const fastxai::SubsetTables tables(players, 0, false);
  fastxai::Binomials binomials = tables.binomials();
  if (!tabulated) binomials.table = nullptr;
  Array<int64_t> bits({static_cast<int64_t>(numbers.size()), words});
  std::fill_n(bits.mutable_data(), bits.size(), 0);
  for (int64_t n = 0; n < numbers.size(); ++n) {
    fastxai::unrank(bits.mutable_data() + n * words, binomials, size, numbers.data()[n]);
  }
  return bits;
}

// The same for a tile of rows of up to 64 players, side by side.
Array<int64_t> unrank_tile(int64_t players, const Array<int64_t>& sizes,
                           const Array<int64_t>& numbers) {
  if (sizes.size() != fastxai::kRankTile || players > 64) throw std::out_of_range("tile");
  const fastxai::SubsetTables tables(players, 0, false);
  Array<int64_t> bits(sizes.size());
  fastxai::unrank_tile(bits.mutable_data(), tables.binomials(), sizes.data(), numbers.data());
  return bits;
}

Array<int64_t> permute(int64_t count, int64_t size, int64_t players, int64_t seed) {
  const auto order = fastxai::rank_order(count, size, players, fastxai::philox_key(seed));
  Array<int64_t> numbers(count);
  for (int64_t rank = 0; rank < count; ++rank) {
    numbers.mutable_data()[rank] = fastxai::permute(order, rank);
  }
  return numbers;
}

// Rows [begin, end) of the bits, of which the rest keeps its fill.
Array<int64_t> coalitions(int64_t players, const Array<int64_t>& sizes, const Array<int64_t>& ranks,
                          int64_t seed, int64_t begin, int64_t end, int64_t fill) {
  if (end > sizes.size()) throw std::out_of_range("rows");
  const fastxai::SubsetTables tables(players, seed, false);
  Array<int64_t> bits({static_cast<int64_t>(sizes.size()), (players + 63) / 64});
  std::fill_n(bits.mutable_data(), bits.size(), fill);
  fastxai::coalitions_leaf(bits.mutable_data(), sizes.data(), ranks.data(), begin, end, tables);
  return bits;
}

Array<uint64_t> transpose(const Array<uint64_t>& words) {
  if (words.size() != 64) throw std::out_of_range("words");
  Array<uint64_t> result(64);
  std::copy_n(words.data(), 64, result.mutable_data());
  fastxai::transpose64(result.mutable_data());
  return result;
}

// The rows in the order of their classes, and weight, begin and end of each class.
py::tuple weight_classes(const Array<double>& weights, bool by_sorting) {
  const auto result = by_sorting ? fastxai::classes_by_sorting(weights.data(), weights.size())
                                 : fastxai::classes_of(weights.data(), weights.size());
  std::vector<std::tuple<double, int64_t, int64_t>> classes;
  for (const auto& c : result.classes) classes.emplace_back(c.weight, c.begin, c.end);
  return py::make_tuple(result.rows, classes);
}

// Adds to counts [last - first, M] how many rows hold each pair of players.
Array<int64_t> count_pairs(const Array<int64_t>& counts, const Array<int64_t>& bits,
                           const Array<int64_t>& rows, int64_t players, int64_t first,
                           int64_t last) {
  const int64_t words = (rows.size() + 63) / 64;
  std::vector<uint64_t> columns(words * players);
  const fastxai::GramChunk chunk{rows.data(), static_cast<int64_t>(rows.size()), columns.data(),
                                 words};
  fastxai::transpose_leaf(chunk, bits.data(), players);
  Array<int64_t> result({last - first, players});
  std::copy_n(counts.data(), counts.size(), result.mutable_data());
  fastxai::count_leaf(result.mutable_data(), chunk, players, first, last);
  return result;
}

Array<double> add_rows(const Array<double>& gram, const Array<int64_t>& bits,
                       const Array<double>& weights, int64_t first, int64_t last, int64_t begin) {
  const int64_t players = gram.shape(0);
  Array<double> result({players, players});
  std::copy_n(gram.data(), gram.size(), result.mutable_data());
  const fastxai::GramRows rows{bits.data(), weights.data(), static_cast<int64_t>(weights.size())};
  fastxai::add_rows_leaf(result.mutable_data(), rows, players, first, last, begin);
  return result;
}

// The sums [players, width] of rows [begin, end), the players of one word, and a few outputs.
template <class T>
Array<double> sum_block(const Array<int64_t>& bits, int64_t word, const Array<double>& weights,
                        const Array<Bits<T>>& values, int64_t first_column, int64_t columns,
                        int64_t begin, int64_t end, int64_t players) {
  const int width = fastxai::rhs_width(columns);
  const int64_t outputs = values.shape(1);
  if (first_column + columns > outputs || end > weights.size()) throw std::out_of_range("block");
  Array<double> sums({players, int64_t{width}});
  fastxai::rhs_leaf(width, sums.mutable_data(),
                    fastxai::RhsBlock<T>{bits.data() + word, bits.shape(1), weights.data(),
                                         pointer<T>(values) + first_column, outputs, begin, end,
                                         players, columns});
  return sums;
}

Array<double> lasso(const Array<double>& gram, const Array<double>& rhs, double alpha,
                    double tolerance, int64_t max_sweeps) {
  const int64_t players = gram.shape(0);
  Array<double> coefficients(players);
  std::vector<double> gradient(players);
  fastxai::lasso_leaf(coefficients.mutable_data(), gram.data(), rhs.data(), 1, gradient.data(),
                      players, {alpha, tolerance, max_sweeps});
  return coefficients;
}

uint32_t shuffled(uint32_t i, uint32_t count, uint32_t key, uint32_t shift) {
  return fastxai::shuffled(i, count, key, shift);
}

py::tuple draw(int64_t n, int64_t example, int64_t samples, int64_t baselines, int64_t seed) {
  const auto key = fastxai::philox_key(seed);
  return py::make_tuple(fastxai::baseline_of(n, example, baselines, key),
                        fastxai::position_of(n, example, samples, baselines, key));
}

Array<float> logarithm(const Array<float>& values) {
  Array<float> result(values.size());
  for (py::ssize_t i = 0; i < values.size(); ++i) {
    result.mutable_data()[i] = fastxai::logarithm(values.data()[i]);
  }
  return result;
}

// [2, N]
Array<float> box_muller(const Array<uint32_t>& first, const Array<uint32_t>& second) {
  const py::ssize_t count = std::min(first.size(), second.size());
  Array<float> result({py::ssize_t{2}, count});
  for (py::ssize_t i = 0; i < count; ++i) {
    fastxai::box_muller(first.data()[i], second.data()[i], result.mutable_data()[i],
                        result.mutable_data()[count + i]);
  }
  return result;
}

// Elements [begin, begin + n) of a noisy row, of which the rest keeps its fill.
template <class T>
Array<Bits<T>> noisy(const Array<Bits<T>>& input, const std::optional<Array<Bits<T>>>& baseline,
                     double alpha, double stdev, int64_t seed, int64_t begin, int64_t n,
                     Bits<T> fill) {
  Array<Bits<T>> row(input.size());
  std::fill_n(row.mutable_data(), row.size(), fill);
  fastxai::noisy_leaf(reinterpret_cast<T*>(row.mutable_data()),
                      fastxai::NoisyTile<T>{
                          .input = pointer<T>(input),
                          .baseline = baseline ? pointer<T>(*baseline) : nullptr,
                          .alpha = alpha,
                          .stdev = stdev,
                          .source = {fastxai::philox_key(seed), 3},
                          .sample = 5,
                          .example = 7,
                          .begin = begin,
                          .n = n,
                      });
  return row;
}

// The sums of elements [begin, begin + n), added to those given.
template <class T>
Array<fastxai::Accumulation<T>> noisy_sums(const Array<fastxai::Accumulation<T>>& sums,
                                           const Array<Bits<T>>& grads, const Array<Bits<T>>& input,
                                           double stdev, int64_t seed, int64_t begin) {
  Array<fastxai::Accumulation<T>> result(sums.size());
  std::copy_n(sums.data(), sums.size(), result.mutable_data());
  fastxai::noisy_reduce_leaf(result.mutable_data(), fastxai::NoisyReduction<T>{
                                                        .grads = pointer<T>(grads),
                                                        .stride = grads.shape(1),
                                                        .input = pointer<T>(input),
                                                        .baseline = nullptr,
                                                        .features = grads.shape(1),
                                                        .drawn = nullptr,
                                                        .drawn_stride = 0,
                                                        .stdev = stdev,
                                                        .source = {fastxai::philox_key(seed), 3},
                                                        .first = 5,
                                                        .samples = grads.shape(0),
                                                        .example = 7,
                                                        .begin = begin,
                                                        .n = sums.size(),
                                                    });
  return result;
}

using Words2 = std::array<uint32_t, 2>;
using Words4 = std::array<uint32_t, 4>;

Words4 philox(const Words4& counter, const Words2& key) {
  const auto result = fastxai::philox4x32_10({{counter[0], counter[1], counter[2], counter[3]}},
                                             {{key[0], key[1]}});
  return {result.word[0], result.word[1], result.word[2], result.word[3]};
}

}  // namespace

PYBIND11_MODULE(fastxai_harness, m) {
  m.def("cpu_clones", &fastxai::cpu_clones);
  m.def("philox", &philox);
  m.def("shuffled", &shuffled);
  m.def("draw", &draw);
  m.def("logarithm", &logarithm);
  m.def("box_muller", &box_muller);
  m.def("noisy_half", &noisy<fastxai::Half>);
  m.def("noisy_bfloat16", &noisy<fastxai::BFloat16>);
  m.def("noisy_float", &noisy<float>);
  m.def("noisy_double", &noisy<double>);
  m.def("noisy_sums_half", &noisy_sums<fastxai::Half>);
  m.def("noisy_sums_bfloat16", &noisy_sums<fastxai::BFloat16>);
  m.def("noisy_sums_float", &noisy_sums<float>);
  m.def("noisy_sums_double", &noisy_sums<double>);
  m.def("half_to_float", &widen_all<fastxai::Half>);
  m.def("bfloat16_to_float", &widen_all<fastxai::BFloat16>);
  m.def("float_to_half", &narrow_all<fastxai::Half>);
  m.def("float_to_bfloat16", &narrow_all<fastxai::BFloat16>);
  m.def("points_half", &points<fastxai::Half>);
  m.def("points_bfloat16", &points<fastxai::BFloat16>);
  m.def("points_float", &points<float>);
  m.def("points_double", &points<double>);
  m.def("perturb_1", &perturb<uint8_t>);
  m.def("perturb_2", &perturb<uint16_t>);
  m.def("perturb_4", &perturb<uint32_t>);
  m.def("perturb_8", &perturb<uint64_t>);
  m.def("unrank", &unrank);
  m.def("unrank_tile", &unrank_tile);
  m.def("permute", &permute);
  m.def("countable_sizes", &fastxai::countable_sizes);
  m.def("coalitions", &coalitions);
  m.def("transpose", &transpose);
  m.def("weight_classes", &weight_classes);
  m.def("count_pairs", &count_pairs);
  m.def("add_rows", &add_rows);
  m.def("sum_block_half", &sum_block<fastxai::Half>);
  m.def("sum_block_float", &sum_block<float>);
  m.def("sum_block_double", &sum_block<double>);
  m.def("lasso", &lasso);
  m.def("ablate_1", &ablate<uint8_t>);
  m.def("ablate_4", &ablate<uint32_t>);
  m.def("position_range", &position_range);
  m.def("group_linear_float", &group_linear<float>);
  m.def("group_linear_double", &group_linear<double>);
  m.def("reduce_half", &reduce<fastxai::Half>);
  m.def("reduce_bfloat16", &reduce<fastxai::BFloat16>);
  m.def("reduce_float", &reduce<float>);
  m.def("reduce_double", &reduce<double>);
}
