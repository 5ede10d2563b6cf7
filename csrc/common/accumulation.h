// The type that a type's sums and products are computed in.
#pragma once

namespace fastxai {

template <class T>
struct AccumulationOf {
  using type = float;
};
template <>
struct AccumulationOf<double> {
  using type = double;
};
template <class T>
using Accumulation = typename AccumulationOf<T>::type;

}  // namespace fastxai
