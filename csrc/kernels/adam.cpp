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

isa::AdamRow row_of(const AdamParameters& x, const Part& part, std::int64_t row) {
  const AdamMatrices& matrix = x.matrices[part.matrix];
  const std::int64_t place = row * matrix.columns + part.column;
  isa::AdamRow found = matrix.first_row;
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
  const isa::Table& table = isa::active();
  const auto for_each_part = [&](int own_threads, const auto& visit) {
    parallel_for(static_cast<std::int64_t>(parts.size()), own_threads, [&](std::int64_t i, int) {
      visit(static_cast<std::size_t>(i), parts[static_cast<std::size_t>(i)]);
    });
  };
  const auto step_row = [&](std::int64_t row, std::vector<double>& squares, int own_threads) {
    float scale = 1.0f;
    if (most) {
      for_each_part(own_threads, [&](std::size_t i, const Part& part) {
        squares[i] = table.sum_of_squares(row_of(x, part, row).gradients, part.columns);
      });
      scale = scale_to(*most, squares);
    }
    for_each_part(own_threads, [&](std::size_t, const Part& part) {
      isa::AdamStep step = x.matrices[part.matrix].steps[static_cast<std::size_t>(row)];
      step.scale = scale;
      table.adam_row(row_of(x, part, row), part.columns, step);
    });
  };
  // A thread for a row as far as all threads have one; then all for a row that has enough parts.
  const bool is_shared = static_cast<int>(parts.size()) >= threads;
  const std::int64_t alone = is_shared ? x.rows - x.rows % threads : x.rows;
  std::vector<std::vector<double>> squares(static_cast<std::size_t>(threads),
                                           std::vector<double>(parts.size()));
  parallel_for(alone, threads, [&](std::int64_t row, int worker) {
    step_row(row, squares[static_cast<std::size_t>(worker)], 1);
  });
  for (std::int64_t row = alone; row < x.rows; ++row) step_row(row, squares[0], threads);
}

}  // namespace bertft
