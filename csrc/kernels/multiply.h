// Products of matrices of any strides.
#pragma once

#include "kernels/cross_moments.h"

namespace bertft {

// out = a b for a (m, k), b (k, n) and out (m, n), all float32 or all float64; the rows of out are
// contiguous, `out_row` elements apart, and overlap neither a nor b. Products are summed in their
// type over runs of 256 columns of a, and the runs in out. The number of threads does not change a
// bit. O(m n k); memory for some 2 MiB of packed operands, or 256 columns of a and rows of b where
// those are more. Throws std::bad_alloc.
void multiply(const Matrix& a, const Matrix& b, void* out, std::int64_t out_row, int threads);

}  // namespace bertft
