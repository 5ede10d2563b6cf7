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
#include "cpu/path_points.h"
#include "cpu/path_reduce.h"

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
  m.def("reduce_half", &reduce<fastxai::Half>);
  m.def("reduce_bfloat16", &reduce<fastxai::BFloat16>);
  m.def("reduce_float", &reduce<float>);
  m.def("reduce_double", &reduce<double>);
}
