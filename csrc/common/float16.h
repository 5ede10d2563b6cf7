// float16 and bfloat16 to float and back, rounding to nearest even, without branches or intrinsics,
// so that the compiler vectorises them for every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "accumulation.h"
#include "isa.h"

namespace fastxai {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

FASTXAI_INLINE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

FASTXAI_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

FASTXAI_INLINE double widen(double value) { return value; }
FASTXAI_INLINE float widen(float value) { return value; }
FASTXAI_INLINE float widen(BFloat16 value) { return float_of_bits(uint32_t{value.bits} << 16); }

FASTXAI_INLINE float widen(Half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t shifted = uint32_t{value.bits & 0x7fffu} << 13;
  const uint32_t exponent = shifted & 0x0f800000u;
  const uint32_t normal = shifted + (112u << 23);
  const uint32_t special = normal + (112u << 23);  // infinity and NaN: the largest exponent
  // Subnormal: give it an exponent of one, then take that one away, exactly.
  const uint32_t subnormal =
      bits_of_float(float_of_bits(shifted + (113u << 23)) - float_of_bits(113u << 23));
  const uint32_t finite = exponent == 0u ? subnormal : normal;
  return float_of_bits(sign | (exponent == 0x0f800000u ? special : finite));
}

template <class T>
struct Narrow;

template <>
struct Narrow<double> {
  FASTXAI_INLINE static double from(double value) { return value; }
};

template <>
struct Narrow<float> {
  FASTXAI_INLINE static float from(float value) { return value; }
};

template <>
struct Narrow<BFloat16> {
  FASTXAI_INLINE static BFloat16 from(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return {static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded)};
  }
};

// After Marat Dukhan's FP16 library: an addition whose exponent is chosen so that the unit in the
// last place is float16's does the rounding.
template <>
struct Narrow<Half> {
  FASTXAI_INLINE static Half from(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const float scaled = float_of_bits(magnitude) * 0x1.0p+112f * 0x1.0p-110f;  // infinity if large
    const uint32_t exponent = magnitude & 0x7f800000u;
    const uint32_t clamped = exponent < 0x38800000u ? 0x38800000u : exponent;
    const uint32_t sum = bits_of_float(float_of_bits(clamped + 0x07800000u) + scaled);
    const uint32_t rounded = ((sum >> 13) & 0x7c00u) + (sum & 0x0fffu);
    return {static_cast<uint16_t>(sign | (magnitude > 0x7f800000u ? 0x7e00u : rounded))};
  }
};

}  // namespace fastxai
