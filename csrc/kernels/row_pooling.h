// Gathers runs of rows and averages each run: words from their pieces, tokens, selections.
#pragma once

#include <cstdint>

#include "kernels/cross_moments.h"

namespace bertft {

// out[i] = mean over r in [starts[i], stops[i]) of x[r], for `count` runs. out is (count,
// x.columns), contiguous, float64 for float64 rows and float32 for all others; it overlaps
// nothing. Requires 0 <= starts[i] < stops[i] <= x.rows. Returns whether every value written is
// finite. Each row is written by one thread; O(pieces x columns).
bool pool_rows(const Matrix& x, const std::int64_t* starts, const std::int64_t* stops,
               std::int64_t count, void* out, int threads);

}  // namespace bertft
