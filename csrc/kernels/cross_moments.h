// Sums of products of blocks of rows about fixed origins (cross moments).
//
// Rows of several sides are read once to be summed (and before that, where several blocks or groups
// of sides must all be sound, to be checked): widened, mapped (raw, unit length, centered and unit
// length), shifted by an origin and laid out in panels, for each row map; products of pairs of
// sides run on the panels. Rows of float16, bfloat16 and float32 are packed in float32, float64
// rows in float64; products run in that type over runs of 128 rows and add up in float64; squared
// norms are in float64 throughout. The number of threads does not change a bit of the result.
#pragma once

#include <cstdint>
#include <vector>

#include "isa/table.h"

namespace bertft {

// A strided (n, d) matrix; strides in elements.
struct Matrix {
  const void* address;
  DType dtype;
  std::int64_t rows, columns;
  std::int64_t row_stride, column_stride;
};

// Sums of a pair of sides, with k and l the squared norms of the packed rows of x and y:
//   product (d_x, d_y) += X^T Y;   *weight += sum k l;
//   left (d_x) += sum l x;         right (d_y) += sum k y.
// For a side with itself only the upper triangle of product is added to, and right is not touched.
struct Cross {
  double *product, *left, *right, *weight;
};

// Sums under one row map: one origin, total and sum of squares per side, one Cross per pair.
struct MappedSums {
  isa::RowMap row_map;
  std::vector<const double*> origins;
  std::vector<double*> totals;   // += sum of the packed rows
  std::vector<double*> squares;  // += sum of their squared norms
  std::vector<Cross> crosses;
};

// Rows of all sides, which have the same number of rows and are all float64 or none, and what they
// are summed into: contiguous, none overlapping another or the rows.
struct Moments {
  std::vector<Matrix> sides;
  std::vector<std::pair<int, int>> pairs;
  std::vector<MappedSums> maps;
  std::vector<double*> norms;      // by side: += sum |x|
  std::vector<double*> distances;  // by pair: += sum |x - y| for two sides of one width
};

enum class Fault { kNone, kNotFinite, kZero, kConstant };

// The first row that cannot be summed, and its side.
struct FirstFault {
  Fault fault = Fault::kNone;
  std::int64_t side = 0, row = 0;
};

// Adds the rows. On a fault, and on std::bad_alloc, nothing has been added. O(n d_x d_y) for every
// pair and row map, half of it for a side with itself; memory for 2048 packed rows of the sides
// that pairs join, under all row maps.
FirstFault accumulate(const Moments& moments, int threads);

}  // namespace bertft
