// Every op of the library, and nothing else. The kernels are in cpu/ and cuda/ under the op's name.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastxai, m) {
  // Points on the straight path: [B, *F], [B or 1, *F], [S] float64 -> [S, B, *F].
  m.def("path_points(Tensor input, Tensor baseline, Tensor alphas) -> Tensor");

  // acc + sum_s weights[s] * grads[s]: [B, *F], [S, B, *F], [S] float64 -> [B, *F].
  m.def("path_reduce(Tensor? acc, Tensor grads, Tensor weights) -> Tensor");

  // Sample n of example b is baseline + alpha * (input + stdev * noise - baseline), all drawn from
  // (seed, n, b), or without a baseline input + stdev * noise; samples first to last - 1 of the
  // examples from `example` on: [B, *F], [K, *F] -> [last - first, B, *F].
  m.def(
      "noisy_points(Tensor input, Tensor? baseline, float stdev, SymInt seed, int stream, "
      "SymInt samples, SymInt example, SymInt first, SymInt last, float? position) -> Tensor");

  // acc + sum_n (input + stdev * noise - baseline) * grads[n], drawn as in noisy_points:
  // [B, *F], [last - first, B, *F], [B, *F], [K, *F] -> [B, *F].
  m.def(
      "noisy_reduce(Tensor? acc, Tensor grads, Tensor input, Tensor? baseline, float stdev, "
      "SymInt seed, int stream, SymInt samples, SymInt example, SymInt first, SymInt last) "
      "-> Tensor");

  // Random coalitions without replacement, by size and rank: [N] int64 twice -> [N, W] int64.
  m.def("coalitions(int players, Tensor sizes, Tensor ranks, int seed) -> Tensor");

  // sum_n weights[n] * z_n z_n', z_n row n of the coalitions as 0 and 1: [N, W], [N] -> [M, M].
  m.def("coalition_gram(Tensor bits, int players, Tensor weights) -> Tensor");

  // sum_n weights[n] * z_n values_n': [N, W], [N], [N, C] -> [M, C] float64.
  m.def("coalition_rhs(Tensor bits, int players, Tensor weights, Tensor values) -> Tensor");

  // Least squares with an L1 penalty, from the normal equations: [P, M, M], [P, M, C] -> [P, M, C].
  m.def("lasso(Tensor gram, Tensor rhs, float alpha, float tolerance, int max_sweeps) -> Tensor");

  // Coalition n over background k is row n * K + k; of those, rows first to last - 1:
  // [B, *F], [B or 1, K, *F], [N, W] int64, [B or 1, *F] int32 -> [last - first, B, *F].
  m.def(
      "perturb(Tensor input, Tensor baseline, Tensor bits, Tensor mask, SymInt first, SymInt last) "
      "-> Tensor");

  // The input with one group's features replaced, for groups first to last - 1: [B, *F], [R, *F],
  // [G or 1, B], [B or 1, P], [B or 1, G + 1] int64 -> [last - first, B, *F].
  m.def(
      "ablate_one(Tensor input, Tensor baseline, Tensor source, Tensor positions, Tensor offsets, "
      "SymInt first, SymInt last) -> Tensor");

  // A linear layer of rows that are zero but in one group's features: [B, P], [B or 1, P] int64,
  // [B or 1, G + 1] int64, [H, F] -> [G, B, H].
  m.def("group_linear(Tensor values, Tensor positions, Tensor offsets, Tensor weight) -> Tensor");

  // The instruction sets that the CPU kernels were built for, and the one that runs here.
  m.def("cpu_clones() -> str");
}
