// What noisy rows are drawn from: a baseline, a position on the path, and normal noise, each a
// function of the seed and of what it is for. The same arithmetic on CPU and CUDA and, in torch, in
// fastxai/ops/reference/draws.py: the same bits everywhere, as nothing but IEEE operations is used.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "isa.h"
#include "philox.h"

namespace fastxai {

// The last word of a counter tells what the draw is for; noise uses the number of the input.
constexpr uint32_t kJitter = 0xFFFFFFFFu;
constexpr uint32_t kOrder = 0xFFFFFFFEu;
constexpr uint32_t kCoarse = 0xFFFFFFFDu;
constexpr uint32_t kFine = 0xFFFFFFFCu;

// Element i of a row takes its noise from lane i / 16 % 4 of counter i / 64 * 16 + i % 16, so that
// neighbours in memory are neighbours in every lane.
constexpr int64_t kLane = 16;
constexpr int64_t kGroup = 4 * kLane;

// Where number i of 0, ..., count - 1 goes in an order that the key sets. The shift makes every
// place equally likely for each number, up to count / 2^32; the key scatters neighbours. The
// numbers beyond count walk on until they fall below (Black and Rogaway, "Ciphers with arbitrary
// finite domains", 2002).
FASTXAI_HOST_DEVICE FASTXAI_INLINE uint32_t shuffled(uint32_t i, uint32_t count, uint32_t key,
                                                     uint32_t shift) {
  uint32_t mask = count - 1;
  int bits = 0;
  while (mask >> bits != 0) ++bits;
  mask = static_cast<uint32_t>((uint64_t{1} << bits) - 1);
  const int half = bits < 2 ? 1 : bits / 2;
  do {
    for (int turn = 0; turn < 32; turn += 8) {
      const uint32_t turned = turn == 0 ? key : key >> turn | key << (32 - turn);
      i = (i ^ turned) * 0x846CA68Bu & mask;
      i ^= i >> half;
    }
  } while (i >= count);
  return static_cast<uint32_t>((uint64_t{i} + shift) % count);
}

FASTXAI_HOST_DEVICE inline PhiloxCounter draw_words(int64_t number, int64_t example,
                                                    uint32_t purpose, PhiloxKey key) {
  return philox4x32_10({{static_cast<uint32_t>(number), static_cast<uint32_t>(example),
                         static_cast<uint32_t>(example >> 32), purpose}},
                       key);
}

// The baseline of sample n of an example. Samples go through the baselines in rounds, in an order
// of the example's own.
FASTXAI_HOST_DEVICE inline int64_t baseline_of(int64_t n, int64_t example, int64_t baselines,
                                               PhiloxKey key) {
  const PhiloxCounter order = draw_words(0, example, kOrder, key);
  return shuffled(static_cast<uint32_t>(n % baselines), static_cast<uint32_t>(baselines),
                  order.word[0], order.word[1]);
}

// The position on the path of sample n of an example. Positions are stratified twice: those of one
// baseline have a coarse stratum each, those of different baselines in it a fine one each. Every
// single draw is uniform: baseline and position are independent.
FASTXAI_HOST_DEVICE inline double position_of(int64_t n, int64_t example, int64_t samples,
                                              int64_t baselines, PhiloxKey key) {
  const auto place = static_cast<uint32_t>(n % baselines);
  const auto round = static_cast<uint32_t>(n / baselines);
  const auto rounds = static_cast<uint32_t>((samples + baselines - 1) / baselines);
  const auto places = static_cast<uint32_t>(samples < baselines ? samples : baselines);
  const PhiloxCounter coarse = draw_words(place, example, kCoarse, key);
  const uint32_t stratum = shuffled(round, rounds, coarse.word[0], coarse.word[1]);
  const PhiloxCounter fine = draw_words(stratum, example, kFine, key);
  const uint32_t within = shuffled(place, places, fine.word[0], fine.word[1]);
  const double jitter = (draw_words(n, example, kJitter, key).word[0] + 0.5) * 0x1.0p-32;
  const double strata = static_cast<double>(rounds) * places;
  return (static_cast<double>(stratum) * places + within + jitter) / strata;
}

FASTXAI_HOST_DEVICE FASTXAI_INLINE uint32_t word_of(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

FASTXAI_HOST_DEVICE FASTXAI_INLINE float float_of(uint32_t word) {
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// The natural logarithm of a normal positive number, to a unit in the last place or two: m 2^e with
// m around 1, and a polynomial in m - 1. Coefficients: Moshier's Cephes library, logf.
FASTXAI_HOST_DEVICE FASTXAI_INLINE float logarithm(float value) {
  const int32_t apart = static_cast<int32_t>(word_of(value)) - 0x3f3504f3;
  const float e = static_cast<float>(apart >> 23);
  const float x = float_of(static_cast<uint32_t>((apart & 0x7fffff) + 0x3f3504f3)) - 1.0f;
  const float z = x * x;
  float y = 7.0376836292e-2f;
  y = y * x - 1.1514610310e-1f;
  y = y * x + 1.1676998740e-1f;
  y = y * x - 1.2420140846e-1f;
  y = y * x + 1.4249322787e-1f;
  y = y * x - 1.6668057665e-1f;
  y = y * x + 2.0000714765e-1f;
  y = y * x - 2.4999993993e-1f;
  y = y * x + 3.3333331174e-1f;
  y = y * x * z;
  y = y - 2.12194440e-4f * e;
  y = y - 0.5f * z;
  return x + y + 0.693359375f * e;
}

// Two independent standard normals from two random words (Box and Muller, 1958). The first word is
// the radius; the second a quarter of the circle (2 bits) and the angle within it (24 bits), whose
// sine and cosine are the polynomials of Cephes for |angle| <= pi / 4.
FASTXAI_HOST_DEVICE FASTXAI_INLINE void box_muller(uint32_t first, uint32_t second, float& one,
                                                   float& other) {
  const float uniform = static_cast<float>(static_cast<int32_t>(first >> 8) + 1) * 0x1.0p-24f;
  const float radius = std::sqrt(-2.0f * logarithm(uniform));
  const float turn = static_cast<float>(static_cast<int32_t>(second) >> 8) * 0x1.0p-23f;
  const float angle = turn * 0.78539816339744831f;
  const float z = angle * angle;
  float sine = -1.9515295891e-4f;
  sine = sine * z + 8.3321608736e-3f;
  sine = sine * z - 1.6666654611e-1f;
  sine = sine * z * angle + angle;
  float cosine = 2.443315711809948e-5f;
  cosine = cosine * z - 1.388731625493765e-3f;
  cosine = cosine * z + 4.166664568298827e-2f;
  cosine = cosine * z * z - 0.5f * z + 1.0f;
  const bool quarter = (second & 1u) != 0;
  const uint32_t half = (second & 2u) << 30;  // the sign's bit
  const float x = quarter ? -sine : cosine;
  const float y = quarter ? cosine : sine;
  one = radius * float_of(word_of(x) ^ half);
  other = radius * float_of(word_of(y) ^ half);
}

}  // namespace fastxai
