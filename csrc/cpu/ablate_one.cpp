#include "ablate_one.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>

#include "../common/ablate_one.h"
#include "../common/tensors.h"

namespace fastxai {
namespace {

// Bytes that one thread should at least write: fewer are not worth waking another.
constexpr int64_t kGrainBytes = 524288;

struct Arguments {
  Tensor input, baseline, source, positions, offsets;  // contiguous
  int64_t first, last;

  Table source_table() const { return table_of(source); }
  Table positions_table() const { return table_of(positions); }
  Table offsets_table() const { return table_of(offsets); }
};

// False if an id in use is out of range.
template <class U>
bool run(const Tensor& rows, const Arguments& given) {
  const int64_t examples = given.input.size(0);
  const Ablation<U> ablation{
      .rows = mutable_data<U>(rows),
      .input = data<U>(given.input),
      .baseline = data<U>(given.baseline),
      .source = given.source_table(),
      .positions = given.positions_table(),
      .offsets = given.offsets_table(),
      .first = given.first,
      .examples = examples,
      .features = given.input.numel() / examples,
      .baselines = given.baseline.size(0),
  };
  const int64_t row_bytes = ablation.features * static_cast<int64_t>(sizeof(U));
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / row_bytes);
  std::atomic<bool> valid = true;
  torch::stable::parallel_for(0, (given.last - given.first) * examples, grain,
                              [&](int64_t begin, int64_t end) {
                                if (!ablate_rows(ablation, begin, end)) valid = false;
                              });
  return valid;
}

struct Wide {
  uint64_t word[2];
};

bool dispatch(const Tensor& rows, const Arguments& given) {
  switch (given.input.element_size()) {
    case 1:
      return run<uint8_t>(rows, given);
    case 2:
      return run<uint16_t>(rows, given);
    case 4:
      return run<uint32_t>(rows, given);
    case 8:
      return run<uint64_t>(rows, given);
    default:
      return run<Wide>(rows, given);
  }
}

// Names the first of the ids in use that is out of range.
void check_ids_in_use(const Arguments& given) {
  const char* op = "ablate_one";
  const int64_t examples = given.input.size(0);
  const int64_t features = given.input.numel() / examples;
  const Table source = given.source_table(), positions = given.positions_table(),
              offsets = given.offsets_table();
  for (int64_t g = given.first; g < given.last; ++g) {
    check_ids({op, "source", given.source}, source.row(g), examples, given.baseline.size(0));
  }
  for (int64_t b = 0; b < examples; ++b) {
    check_ids({op, "offsets", given.offsets}, offsets.row(b) + given.first,
              given.last - given.first + 1, positions.columns + 1);
  }
  for (int64_t g = given.first; g < given.last; ++g) {
    for (int64_t b = 0; b < examples; ++b) {
      const int64_t begin = offsets.row(b)[g], end = std::max(begin, offsets.row(b)[g + 1]);
      check_ids({op, "positions", given.positions}, positions.row(b) + begin, end - begin,
                features);
    }
  }
}

Tensor ablate_one_cpu(const Tensor& input, const Tensor& baseline, const Tensor& source,
                      const Tensor& positions, const Tensor& offsets, int64_t first, int64_t last) {
  check_ablate_one(input, baseline, source, positions, offsets, first, last);
  const Tensor rows = empty_rows(input, last - first);
  if (rows.numel() == 0) return rows;
  const Arguments given{
      as_contiguous(input),
      as_contiguous(baseline),
      as_contiguous(source),
      as_contiguous(positions),
      as_contiguous(offsets),
      first,
      last,
  };
  if (!dispatch(rows, given)) check_ids_in_use(given);
  return rows;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) {
  m.impl("ablate_one", TORCH_BOX(&fastxai::ablate_one_cpu));
}
