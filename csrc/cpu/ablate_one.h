// The loops of ablate_one, without torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "table.h"

namespace fastxai {

// Rows of groups first, first + 1, ... of all examples; U is an unsigned word as wide as an
// element, since what is copied has no type.
template <class U>
struct Ablation {
  U* rows;            // [groups, examples, features]
  const U* input;     // [examples, features]
  const U* baseline;  // [baselines, features]
  Table source;       // [group, examples]
  Table positions;    // [example, P]
  Table offsets;      // [example, groups + 1]
  int64_t first, examples, features, baselines;
};

// Small examples are copied together, as many as stay in the first-level cache for their patches.
constexpr int64_t kCopyBytes = 16384;

// The group's values in one example's row. False if an id is out of range; it is then left out.
template <class U>
bool patch(const Ablation<U>& a, U* row, int64_t group, int64_t example) {
  const int64_t source = a.source.row(group)[example];
  const int64_t* bounds = a.offsets.row(example) + group;
  const int64_t size = a.positions.columns;
  const bool inside = 0 <= source && source < a.baselines && 0 <= bounds[0] && bounds[0] <= size &&
                      0 <= bounds[1] && bounds[1] <= size;
  if (!inside) return false;
  const U* values = a.baseline + source * a.features;
  const int64_t* positions = a.positions.row(example);
  bool valid = true;
  for (int64_t i = bounds[0]; i < bounds[1]; ++i) {
    const int64_t position = positions[i];
    if (0 <= position && position < a.features) {
      row[position] = values[position];
    } else {
      valid = false;
    }
  }
  return valid;
}

// Writes rows [begin, end) of all groups' examples. False if an id in use is out of range.
template <class U>
bool ablate_rows(const Ablation<U>& a, int64_t begin, int64_t end) {
  const int64_t row_bytes = a.features * static_cast<int64_t>(sizeof(U));
  const int64_t together = std::max<int64_t>(1, kCopyBytes / row_bytes);
  bool valid = true;
  int64_t group = a.first + begin / a.examples, example = begin % a.examples;
  for (int64_t row = begin; row < end;) {
    const int64_t count = std::min({together, a.examples - example, end - row});
    std::memcpy(a.rows + row * a.features, a.input + example * a.features, count * row_bytes);
    for (int64_t i = 0; i < count; ++i) {
      valid &= patch(a, a.rows + (row + i) * a.features, group, example + i);
    }
    row += count;
    example += count;
    if (example == a.examples) {
      example = 0;
      ++group;
    }
  }
  return valid;
}

}  // namespace fastxai
