#include "kernels/adam.h"

#include <algorithm>

#include "kernels/panels.h"
#include "kernels/thread_pool.h"

namespace bertft {
namespace {

// Weights of a task: some 10 microseconds, and few enough to end at one time.
constexpr std::int64_t kWeights = 1 << 14;

isa::AdamRow advanced(isa::AdamRow row, std::int64_t count) {
  row.weights += count;
  row.first += count;
  row.second += count;
  if (row.largest != nullptr) row.largest += count;
  row.gradients += count;
  return row;
}

}  // namespace

void adam(const AdamMatrices& x, const isa::AdamStep* steps, int threads) {
  if (x.rows == 0 || x.columns == 0) return;
  const auto adam_row = isa::active().adam_row;
  const std::int64_t columns = std::min(x.columns, kWeights);
  const std::int64_t rows = std::max(kWeights / columns, std::int64_t{1});
  const std::int64_t across = divide_up(x.columns, columns);
  parallel_for(divide_up(x.rows, rows) * across, threads, [&](std::int64_t task, int) {
    const std::int64_t j = task % across * columns, first = task / across * rows;
    const std::int64_t some = std::min(columns, x.columns - j);
    for (std::int64_t i = first; i < std::min(x.rows, first + rows); ++i) {
      adam_row(advanced(x.first_row, i * x.columns + j), some, steps[i]);
    }
  });
}

}  // namespace bertft
