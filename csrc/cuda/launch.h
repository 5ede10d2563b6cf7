// What every CUDA kernel needs: torch's stream, a check of the launch, conversions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../common/accumulation.h"
#include "../common/check.h"
#include "../common/tensors.h"

// Weak, because CPU-only torch has no such symbol and the library must load there all the same.
// Its CUDA kernels are never called then.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace fastxai::cuda {

using torch::stable::accelerator::DeviceGuard;

inline cudaStream_t current_stream(const Tensor& tensor) {
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    throw std::runtime_error("fastxai: a CUDA kernel was called, but this torch has no CUDA");
  }
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream) != TORCH_SUCCESS) {
    throw std::runtime_error("fastxai: torch gave no current CUDA stream");
  }
  return static_cast<cudaStream_t>(stream);
}

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(op) +
                             ": the CUDA kernel did not start: " + cudaGetErrorString(error));
  }
}

// Calls f(T{}) with T the CUDA element type of a dtype that check_floating let through.
template <class F>
void dispatch_floating(ScalarType dtype, F&& f) {
  switch (dtype) {
    case ScalarType::Half:
      return f(__half{});
    case ScalarType::BFloat16:
      return f(__nv_bfloat16{});
    case ScalarType::Float:
      return f(float{});
    default:
      return f(double{});
  }
}

// Calls f(U{}) with U an unsigned word of 1, 2, 4, 8 or 16 bytes, for what copies without a type.
template <class F>
void dispatch_size(size_t bytes, F&& f) {
  switch (bytes) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    case 8:
      return f(uint64_t{});
    default:
      return f(uint4{});
  }
}

__device__ inline double widen(double value) { return value; }
__device__ inline float widen(float value) { return value; }
__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ inline T narrow(Accumulation<T> value) {
  return value;
}
template <>
__device__ inline __half narrow<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Neighbouring elements that one thread moves as one word, up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T element[N];
};

inline bool is_aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace fastxai::cuda
