// A step of Adam for parameters whose rows have their own rates.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "isa/table.h"

namespace bertft {

// A parameter: contiguous (rows, columns) weights, moments and gradients; `largest` may be nullptr.
struct AdamMatrices {
  isa::AdamRow first_row;
  std::int64_t columns;
  std::vector<isa::AdamStep> steps;  // of each row
};

// Parameters with the same number of rows.
struct AdamParameters {
  std::vector<AdamMatrices> matrices;
  std::int64_t rows;
};

// For the step of each row of each parameter: g = the gradient, scaled to a norm of at most `most`
// over the row of all parameters, first += (1 - beta_1) (g - first), second = beta_2 second + (1 -
// beta_2) g^2, largest = max(largest, second), and weights = kept weights - size first /
// (sqrt(largest or second) inverse_root + epsilon). Squares add up in float64, in an order that
// threads do not change. O(weights).
void adam(const AdamParameters& x, std::optional<double> most, int threads);

}  // namespace bertft
