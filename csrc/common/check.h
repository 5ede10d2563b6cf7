// Errors that name the argument, what was expected and what came: the same words as
// fastxai/ops/reference/checks.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastxai {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

struct Argument {
  const char* op;
  const char* name;
  const Tensor& tensor;
};

template <class... Parts>
[[noreturn]] void fail(const Argument& argument, const Parts&... parts) {
  std::ostringstream message;
  message << argument.op << ": expected " << argument.name << ' ';
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(dtype);
  }
}

inline std::string device_name(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  const std::string type = tensor.is_cuda() ? "cuda" : "another device";
  return type + ":" + std::to_string(tensor.get_device_index());
}

inline Shape shape_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Shape(sizes.begin(), sizes.end());
}

inline std::string shape_name(const Shape& shape) {
  std::string name = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    name += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return name + "]";
}

inline ScalarType accumulation_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_floating(const Argument& argument) {
  switch (argument.tensor.scalar_type()) {
    case ScalarType::Half:
    case ScalarType::BFloat16:
    case ScalarType::Float:
    case ScalarType::Double:
      return;
    default:
      fail(argument, "of dtype float16, bfloat16, float32 or float64, got ",
           dtype_name(argument.tensor.scalar_type()));
  }
}

inline void check_dtype(const Argument& argument, ScalarType dtype) {
  const ScalarType got = argument.tensor.scalar_type();
  if (got != dtype) fail(argument, "of dtype ", dtype_name(dtype), ", got ", dtype_name(got));
}

inline void check_device(const Argument& argument, const Argument& other) {
  if (argument.tensor.device() != other.tensor.device()) {
    fail(argument, "on ", device_name(other.tensor), " like ", other.name, ", got ",
         device_name(argument.tensor));
  }
}

inline void check_dim(const Argument& argument, int64_t least, const char* layout) {
  if (argument.tensor.dim() < least) {
    fail(argument, "of shape ", layout, ", got ", shape_name(shape_of(argument.tensor)));
  }
}

inline void check_shape(const Argument& argument, const Shape& shape) {
  const Shape got = shape_of(argument.tensor);
  if (got != shape) fail(argument, "of shape ", shape_name(shape), ", got ", shape_name(got));
}

inline void check_matrix(const Argument& argument, const char* layout) {
  if (argument.tensor.dim() != 2) {
    fail(argument, "of shape ", layout, ", got ", shape_name(shape_of(argument.tensor)));
  }
}

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

// *F of a tensor [B, *F].
inline Sizes features_of(const Tensor& tensor) {
  const Sizes sizes = tensor.sizes();
  return Sizes(sizes.data() + 1, sizes.size() - 1);
}

// One for all or one for each: the shape is [1, *shape, *features] or [count, *shape, *features].
inline void check_one_or_each(const Argument& argument, int64_t count,
                              std::initializer_list<int64_t> shape, Sizes features = {}) {
  const Sizes got = argument.tensor.sizes();
  if (got.size() == 1 + shape.size() + features.size() && (got[0] == 1 || got[0] == count) &&
      std::equal(shape.begin(), shape.end(), got.begin() + 1) &&
      std::equal(features.begin(), features.end(), got.end() - features.size())) {
    return;
  }
  Shape each{count};
  each.insert(each.end(), shape);
  each.insert(each.end(), features.begin(), features.end());
  Shape one = each;
  one[0] = 1;
  fail(argument, "of shape ", shape_name(each), " or ", shape_name(one), ", got ",
       shape_name(shape_of(argument.tensor)));
}

inline void check_range(const char* op, int64_t first, int64_t last, int64_t count) {
  if (0 <= first && first <= last && last <= count) return;
  std::ostringstream message;
  message << op << ": expected 0 <= first <= last <= " << count << ", got first " << first
          << " and last " << last;
  throw std::runtime_error(message.str());
}

// Names the first id that is not in [0, count).
template <class T>
void check_ids(const Argument& argument, const T* ids, int64_t n, int64_t count) {
  const T* wrong = std::find_if(ids, ids + n, [&](T id) { return id < 0 || id >= count; });
  if (wrong != ids + n) fail(argument, "in [0, ", count, "), got ", *wrong);
}

// alphas or weights: [S] float64, beside the tensor they belong to.
inline void check_steps(const Argument& argument, const Argument& other) {
  check_dtype(argument, ScalarType::Double);
  check_device(argument, other);
  if (argument.tensor.dim() != 1) {
    fail(argument, "of shape [S], got ", shape_name(shape_of(argument.tensor)));
  }
}

}  // namespace fastxai
