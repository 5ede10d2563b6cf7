// Every op of the library, and nothing else. The kernels are in cpu/ and cuda/ under the op's name.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastxai, m) {
  // Points on the straight path: [B, *F], [B or 1, *F], [S] float64 -> [S, B, *F].
  m.def("path_points(Tensor input, Tensor baseline, Tensor alphas) -> Tensor");

  // acc + sum_s weights[s] * grads[s]: [B, *F], [S, B, *F], [S] float64 -> [B, *F].
  m.def("path_reduce(Tensor? acc, Tensor grads, Tensor weights) -> Tensor");

  // The instruction sets that the CPU kernels were built for, and the one that runs here.
  m.def("cpu_clones() -> str");
}
