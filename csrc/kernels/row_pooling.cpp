#include "kernels/row_pooling.h"

#include <algorithm>
#include <atomic>

#include "kernels/thread_pool.h"

namespace bertft {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

}  // namespace

bool pool_rows(const Matrix& x, const std::int64_t* starts, const std::int64_t* stops,
               std::int64_t count, void* out, int threads) {
  const isa::Table& kernels = isa::active();
  const std::int64_t row_bytes = x.columns * (x.dtype == DType::kFloat64 ? 8 : 4);
  std::atomic<bool> finite{true};
  parallel_for((count + kRowsPerTask - 1) / kRowsPerTask, threads, [&](std::int64_t task, int) {
    const std::int64_t stop = std::min(count, (task + 1) * kRowsPerTask);
    bool all = true;
    for (std::int64_t row = task * kRowsPerTask; row < stop; ++row) {
      all &= kernels.pool_row({x.address, x.dtype, x.column_stride}, x.row_stride, starts[row],
                              stops[row], x.columns, static_cast<char*>(out) + row * row_bytes);
    }
    if (!all) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace bertft
