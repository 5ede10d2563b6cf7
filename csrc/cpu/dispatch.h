// From a tensor's dtype to a C++ type.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include "../common/float16.h"

namespace fastxai {

// Calls f(T{}) with T the element type of a dtype that check_floating let through.
template <class F>
void dispatch_floating(torch::headeronly::ScalarType dtype, F&& f) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Half:
      return f(Half{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    case ScalarType::Float:
      return f(float{});
    default:
      return f(double{});
  }
}

}  // namespace fastxai
