// Binds the torch-free headers of csrc/ for pytest. Built by conftest.py; not part of the package.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>

#include "common/float16.h"
#include "common/isa.h"
#include "common/philox.h"
#include "cpu/ablate_one.h"
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
  m.def("ablate_1", &ablate<uint8_t>);
  m.def("ablate_4", &ablate<uint32_t>);
  m.def("reduce_half", &reduce<fastxai::Half>);
  m.def("reduce_bfloat16", &reduce<fastxai::BFloat16>);
  m.def("reduce_float", &reduce<float>);
  m.def("reduce_double", &reduce<double>);
}
