#include "kernels/adam.h"

#include <algorithm>
#include <cmath>

#include "kernels/panels.h"
#include "kernels/thread_pool.h"

namespace bertft {
namespace {

// Weights of a task: some 10 microseconds, and few enough to end at one time.
constexpr std::int64_t kWeights = 1 << 14;

// A part of a parameter: some rows, or some columns of one.
struct Part {
  std::size_t matrix;
  std::int64_t row, rows, column, columns;
};

std::vector<Part> parts_of(const AdamParameters& x) {
  std::vector<Part> parts;
  for (std::size_t m = 0; m < x.matrices.size(); ++m) {
    const std::int64_t all = x.matrices[m].columns, columns = std::min(all, kWeights);
    if (columns == 0) continue;
    const std::int64_t rows = std::max(kWeights / columns, std::int64_t{1});
    for (std::int64_t i = 0; i < x.rows; i += rows) {
      for (std::int64_t j = 0; j < all; j += columns) {
        parts.push_back({m, i, std::min(rows, x.rows - i), j, std::min(columns, all - j)});
      }
    }
  }
  return parts;
}

isa::AdamRow row_of(const AdamMatrices& x, std::int64_t row, std::int64_t column) {
  const std::int64_t place = row * x.columns + column;
  isa::AdamRow found = x.first_row;
  found.weights += place;
  found.first += place;
  found.second += place;
  if (found.largest != nullptr) found.largest += place;
  found.gradients += place;
  return found;
}

}  // namespace

void adam(const AdamParameters& x, int threads) {
  const std::vector<Part> parts = parts_of(x);
  const auto adam_row = isa::active().adam_row;
  parallel_for(static_cast<std::int64_t>(parts.size()), threads, [&](std::int64_t task, int) {
    const Part& part = parts[static_cast<std::size_t>(task)];
    const AdamMatrices& matrix = x.matrices[part.matrix];
    for (std::int64_t i = part.row; i < part.row + part.rows; ++i) {
      adam_row(row_of(matrix, i, part.column), part.columns, matrix.steps[i]);
    }
  });
}

void clip(AdamParameters& x, double most, int threads) {
  const std::vector<Part> parts = parts_of(x);
  const auto sum_of_squares = isa::active().sum_of_squares;
  // A row for each part.
  std::vector<double> squares(parts.size() * static_cast<std::size_t>(x.rows));
  parallel_for(static_cast<std::int64_t>(parts.size()), threads, [&](std::int64_t task, int) {
    const Part& part = parts[static_cast<std::size_t>(task)];
    for (std::int64_t i = part.row; i < part.row + part.rows; ++i) {
      squares[task * x.rows + i] =
          sum_of_squares(row_of(x.matrices[part.matrix], i, part.column).gradients, part.columns);
    }
  });
  for (std::int64_t i = 0; i < x.rows; ++i) {
    double square = 0.0;
    for (std::size_t part = 0; part < parts.size(); ++part) square += squares[part * x.rows + i];
    const float scale = static_cast<float>(std::min(1.0, most / std::sqrt(square)));
    for (AdamMatrices& matrix : x.matrices) matrix.steps[i].scale = scale;
  }
}

}  // namespace bertft
