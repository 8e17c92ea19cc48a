// A step of Adam for matrices whose rows have their own rates.
#pragma once

#include <cstdint>

#include "isa/table.h"

namespace bertft {

// Contiguous (rows, columns) weights, moments and gradients; `largest` may be nullptr.
struct AdamMatrices {
  isa::AdamRow first_row;
  std::int64_t rows, columns;
};

// For steps[i] of each row: first += (1 - beta_1) (g - first),
// second = beta_2 second + (1 - beta_2) g^2, largest = max(largest, second), and
// weights = kept weights - size first / (sqrt(largest or second) inverse_root + epsilon).
// One pass over memory; every weight is stepped by one thread. O(rows x columns).
void adam(const AdamMatrices& matrices, const isa::AdamStep* steps, int threads);

}  // namespace bertft
