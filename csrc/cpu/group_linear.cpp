#include "group_linear.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>

#include "../common/group_linear.h"
#include "../common/tensors.h"

namespace fastxai {
namespace {

// Products and moves that one thread should at least do: fewer are not worth waking another.
constexpr int64_t kGrain = 131072;

// Names the first of the ids in use that is out of range.
void check_ids_in_use(const Tensor& positions, const Tensor& offsets, int64_t examples,
                      int64_t features) {
  const char* op = "group_linear";
  const Table position = table_of(positions), offset = table_of(offsets);
  for (int64_t b = 0; b < examples; ++b) {
    check_ids({op, "offsets", offsets}, offset.row(b), offset.columns, position.columns + 1);
  }
  for (int64_t g = 0; g + 1 < offset.columns; ++g) {
    for (int64_t b = 0; b < examples; ++b) {
      const int64_t begin = offset.row(b)[g], end = std::max(begin, offset.row(b)[g + 1]);
      check_ids({op, "positions", positions}, position.row(b) + begin, end - begin, features);
    }
  }
}

template <class T>
void run(const GroupLinear<T>& op) {
  using Column = Column<T>;
  const int64_t blocks = example_blocks_of(op);
  const int64_t work =
      Column::kSize * (op.last - op.first + op.examples / blocks * op.positions.columns);
  const auto share = [&](int64_t begin, int64_t end) {
    const std::unique_ptr<Column[]> columns(new Column[op.last - op.first]);
    group_linear_leaf(op, columns.get(), begin, end);
  };
  torch::stable::parallel_for(0, columns_of(op) * blocks, std::max<int64_t>(1, kGrain / (work + 1)),
                              share);
}

Tensor group_linear_cpu(const Tensor& values, const Tensor& positions, const Tensor& offsets,
                        const Tensor& weight) {
  check_group_linear(values, positions, offsets, weight);
  const ScalarType dtype = values.scalar_type(), sum_dtype = accumulation_dtype(dtype);
  if (dtype != sum_dtype) {  // torch widens faster than the loops would, once for each call
    const Tensor wide = torch::stable::to(values, sum_dtype);
    const Tensor wide_weight = torch::stable::to(weight, sum_dtype);
    return torch::stable::to(group_linear_cpu(wide, positions, offsets, wide_weight), dtype);
  }
  const Tensor out = empty_group_linear(values, offsets, weight);
  if (out.numel() == 0) return out;
  const Tensor from = as_contiguous(values), rows = as_contiguous(weight);
  const Tensor tables[] = {as_contiguous(positions), as_contiguous(offsets)};
  const Table position = table_of(tables[0]), offset = table_of(tables[1]);
  const int64_t examples = values.size(0), features = weight.size(1);
  const PositionRange range = position_range(position, offset, examples);
  if (!range.valid || (range.first <= range.last && (range.first < 0 || range.last >= features))) {
    check_ids_in_use(tables[0], tables[1], examples, features);
  }
  const bool none = range.first > range.last;
  const auto go = [&](auto type) {
    using T = decltype(type);
    run(GroupLinear<T>{
        .out = mutable_data<T>(out),
        .values = data<T>(from),
        .positions = position,
        .offsets = offset,
        .weight = data<T>(rows),
        .groups = offset.columns - 1,
        .examples = examples,
        .outputs = weight.size(0),
        .features = features,
        .first = none ? 0 : range.first,
        .last = none ? 0 : range.last + 1,
    });
  };
  dtype == ScalarType::Double ? go(double{}) : go(float{});
  return out;
}

}  // namespace
}  // namespace fastxai

STABLE_TORCH_LIBRARY_IMPL(fastxai, CPU, m) {
  m.impl("group_linear", TORCH_BOX(&fastxai::group_linear_cpu));
}
