// Products of matrices of any strides, one or many of a shape.
#pragma once

#include "kernels/cross_moments.h"

namespace bertft {

// Matrices of one shape and layout, `apart` elements from one to the next.
struct Matrices {
  Matrix first;
  std::int64_t count, apart;
};

// out = a b, or out += a b, for each a (m, k), b (k, n) and out (m, n), all float32 or all float64;
// the rows of out are contiguous, and overlap neither each other nor a factor. Products are summed
// in their type over runs of 256 columns of a, and the runs in out. Neither the number of threads
// nor what else is multiplied changes a bit. O(count m n k); memory for some 2 MiB of packed
// operands, or 256 columns of all a and rows of all b where those are more. Throws std::bad_alloc.
void multiply(const Matrices& a, const Matrices& b, const Matrices& out, int threads,
              bool is_added = false);

}  // namespace bertft
