// The loops of lasso, without torch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../common/isa.h"

namespace fastxai {

struct LassoLimits {
  double alpha;
  double tolerance;
  int64_t max_sweeps;
};

// One problem and output. `rhs` and `coefficients` have their M numbers `stride` apart; `gradient`
// is memory for M numbers: of the smooth part, its sign turned, rhs - gram @ coefficients.
FASTXAI_CLONES static void lasso_leaf(double* coefficients, const double* gram, const double* rhs,
                                      int64_t stride, double* gradient, int64_t players,
                                      const LassoLimits& limits) {
  double scale = 0;
  for (int64_t j = 0; j < players; ++j) {
    const double square = gram[j * players + j];
    gradient[j] = rhs[j * stride];
    coefficients[j * stride] = 0;
    if (square > 0) scale = std::max(scale, std::abs(gradient[j]) / std::sqrt(square));
  }
  for (int64_t sweep = 0; sweep < limits.max_sweeps; ++sweep) {
    double largest = 0;
    for (int64_t j = 0; j < players; ++j) {
      const double* row = gram + j * players;
      const double square = row[j];
      double& coefficient = coefficients[j * stride];
      const double pull = gradient[j] + square * coefficient;
      const double excess = std::max(std::abs(pull) - limits.alpha, 0.0);
      const double step = std::copysign(excess, pull) / square - coefficient;
      if (!(square > 0) || step == 0) continue;
      coefficient += step;
      for (int64_t i = 0; i < players; ++i) gradient[i] -= row[i] * step;
      largest = std::max(largest, std::sqrt(square) * std::abs(step));
    }
    if (!(largest > limits.tolerance * scale)) return;
  }
}

}  // namespace fastxai
