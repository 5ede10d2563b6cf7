// Short names for what every kernel does with its tensors.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

namespace fastxai {

template <class T>
const T* data(const torch::stable::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(const torch::stable::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// [count, *input.shape]
inline torch::stable::Tensor empty_rows(const torch::stable::Tensor& input, int64_t count) {
  const auto sizes = input.sizes();
  std::vector<int64_t> shape{count};
  shape.insert(shape.end(), sizes.begin(), sizes.end());
  return torch::stable::new_empty(input, shape);
}

inline torch::stable::Tensor as_contiguous(const torch::stable::Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

}  // namespace fastxai
