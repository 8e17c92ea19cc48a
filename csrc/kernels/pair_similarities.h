// Similarities of all pairs of rows, and second-order sums over them, in tiles that never leave the
// cache.
//
// The similarity of rows i and j of a side is scale * (z_i . z_j) + offset_i + offset_j: every
// kernel of RSA has this form once the rows are mapped and centered. Products run in the rows'
// type, float32 or float64, over runs of 128 columns and add up in float64. The number of threads
// does not change a bit of the result.
#pragma once

#include <cstdint>

#include "kernels/cross_moments.h"

namespace bertft {

// (n, d) contiguous rows and (n) offsets.
struct PairedRows {
  Matrix rows;
  const double* offsets;
  double scale;
};

// Sums over pairs i < j of the similarities s on side x and t on side y.
struct PairSums {
  double x = 0, y = 0, xx = 0, yy = 0, xy = 0;
};

// Both sides have the same number of rows and one type. O(n^2 d) time, memory for the packed rows.
// Throws std::bad_alloc.
PairSums sum_pairs(const PairedRows& x, const PairedRows& y, int threads);

// Writes all similarities, row by row of the strict upper triangle: n (n - 1) / 2 values of the
// rows' type. Throws std::bad_alloc before anything is written.
void condense(const PairedRows& x, void* condensed, int threads);

}  // namespace bertft
