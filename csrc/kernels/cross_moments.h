// Sums of products of two blocks of rows about fixed origins (cross moments).
//
// A Block holds n rows of d columns, mapped (raw, unit length, or centered and unit length),
// shifted by the origin and laid out in panels for the product. Rows of float16, bfloat16 and
// float32 are kept in float32, float64 rows in float64; products run in that type over runs of
// 128 rows and add up in float64. Every function is deterministic: the number of threads does
// not change a bit of the result.
#pragma once

#include <cstdint>
#include <memory>
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

class Block {
 public:
  // Packs `x` less `origin` (`x.columns` values). O(n d) time and memory. Throws
  // std::invalid_argument if a row has no direction and `map` needs one.
  Block(const Matrix& x, const double* origin, isa::RowMap map, int threads);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  bool is_wide() const { return wide_ != nullptr; }

  // Squared norm of every packed row, about the origin.
  const std::vector<double>& squared_norms() const { return squared_norms_; }

  const float* narrow() const { return narrow_.get(); }
  const double* wide() const { return wide_.get(); }

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  std::int64_t rows_, columns_;
  std::vector<double> squared_norms_;
  std::unique_ptr<float[], Free> narrow_;
  std::unique_ptr<double[], Free> wide_;
};

// total[j] += sum over rows of x, `columns` values.
void add_total(const Block& x, double* total, int threads);

// With k and l the squared norms of the rows of x and y:
//   product (x.columns, y.columns) += X^T Y;   *weight += sum k l;
//   left (x.columns) += sum l x;               right (y.columns) += sum k y.
// When x and y are the same object, only the upper triangle of product is added to, and right is
// not touched. Outputs are contiguous and overlap nothing. x and y have the same rows and width
// of type. O(n d_x d_y), half of it for x with itself.
void add_cross(const Block& x, const Block& y, double* product, double* left, double* right,
               double* weight, int threads);

}  // namespace bertft
