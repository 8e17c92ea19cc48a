#include "kernels/adam.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/panels.h"
#include "kernels/thread_pool.h"

namespace bertft {
namespace {

// Weights of a part: some 10 microseconds, and few enough to end at one time.
constexpr std::int64_t kWeights = 1 << 14;

// Some columns of a row of a parameter.
struct Part {
  std::size_t matrix;
  std::int64_t column, columns;
};

std::vector<Part> parts_of_row(const AdamParameters& x) {
  std::vector<Part> parts;
  for (std::size_t m = 0; m < x.matrices.size(); ++m) {
    const std::int64_t all = x.matrices[m].columns;
    for (std::int64_t j = 0; j < all; j += kWeights) {
      parts.push_back({m, j, std::min(kWeights, all - j)});
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

// What is left of the gradients whose parts have these sums of squares.
float scale_to(double most, const std::vector<double>& squares) {
  const double square = std::accumulate(squares.begin(), squares.end(), 0.0);
  return static_cast<float>(std::min(1.0, most / std::sqrt(square)));
}

}  // namespace

void adam(const AdamParameters& x, std::optional<double> most, int threads) {
  const std::vector<Part> parts = parts_of_row(x);
  const auto count = static_cast<std::int64_t>(parts.size());
  const isa::Table& table = isa::active();
  const auto squares_of = [&](std::int64_t row, const Part& part) {
    return table.sum_of_squares(row_of(x.matrices[part.matrix], row, part.column).gradients,
                                part.columns);
  };
  const auto step = [&](std::int64_t row, const Part& part, float scale) {
    const AdamMatrices& matrix = x.matrices[part.matrix];
    isa::AdamStep own = matrix.steps[static_cast<std::size_t>(row)];
    own.scale = scale;
    table.adam_row(row_of(matrix, row, part.column), part.columns, own);
  };
  // A thread for a row, as for its gradients, as far as all threads have one; then all for a row.
  const std::int64_t alone = x.rows - x.rows % threads;
  std::vector<std::vector<double>> squares(static_cast<std::size_t>(threads),
                                           std::vector<double>(parts.size()));
  parallel_for(alone, threads, [&](std::int64_t row, int worker) {
    float scale = 1.0f;
    if (most) {
      auto& own = squares[static_cast<std::size_t>(worker)];
      for (std::size_t i = 0; i < parts.size(); ++i) own[i] = squares_of(row, parts[i]);
      scale = scale_to(*most, own);
    }
    for (const Part& part : parts) step(row, part, scale);
  });
  for (std::int64_t row = alone; row < x.rows; ++row) {
    float scale = 1.0f;
    if (most) {
      parallel_for(count, threads, [&](std::int64_t i, int) {
        squares[0][static_cast<std::size_t>(i)] =
            squares_of(row, parts[static_cast<std::size_t>(i)]);
      });
      scale = scale_to(*most, squares[0]);
    }
    parallel_for(count, threads, [&](std::int64_t i, int) {
      step(row, parts[static_cast<std::size_t>(i)], scale);
    });
  }
}

}  // namespace bertft
