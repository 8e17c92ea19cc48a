#include "kernels/row_pooling.h"

#include <algorithm>
#include <atomic>

#include "kernels/thread_pool.h"

namespace bertft {
namespace {

constexpr std::int64_t kRowsPerTask = 64;
// Below this many bytes to read a second thread costs more than it saves.
constexpr std::int64_t kWorthThreads = std::int64_t{1} << 19;
// Runs that are fetched ahead, and most bytes of one: rows that lie apart come from memory, and no
// hardware foresees where.
constexpr std::int64_t kAhead = 2;
constexpr std::int64_t kFetchedBytes = 8192;

// Fetches the rows of a run to the second-level cache. In line, since GCC drops calls of a function
// that does nothing else.
inline __attribute__((always_inline)) void fetch(const Matrix& x, std::int64_t start,
                                                 std::int64_t stop) {
  const std::int64_t size = size_of(x.dtype), row = x.row_stride * size;
  const char* first = static_cast<const char*>(x.address) + start * row;
  const std::int64_t bytes = (stop - start - 1) * row + x.columns * x.column_stride * size;
  for (std::int64_t place = 0; place < std::min(bytes, kFetchedBytes); place += 64) {
    __builtin_prefetch(first + place, 0, 2);
  }
}

}  // namespace

bool pool_rows(const Matrix& x, const std::int64_t* starts, const std::int64_t* stops,
               std::int64_t count, void* out, int threads) {
  const isa::Table& kernels = isa::active();
  const std::int64_t row_bytes = x.columns * (x.dtype == DType::kFloat64 ? 8 : 4);
  std::atomic<bool> finite{true};
  std::int64_t rows = 0;
  for (std::int64_t i = 0; i < count; ++i) rows += stops[i] - starts[i];
  if (rows * x.columns * size_of(x.dtype) < kWorthThreads) threads = 1;
  parallel_for((count + kRowsPerTask - 1) / kRowsPerTask, threads, [&](std::int64_t task, int) {
    const std::int64_t stop = std::min(count, (task + 1) * kRowsPerTask);
    bool all = true;
    for (std::int64_t row = task * kRowsPerTask; row < stop; ++row) {
      if (row + kAhead < stop) fetch(x, starts[row + kAhead], stops[row + kAhead]);
      all &= kernels.pool_row({x.address, x.dtype, x.column_stride}, x.row_stride, starts[row],
                              stops[row], x.columns, static_cast<char*>(out) + row * row_bytes);
    }
    if (!all) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace bertft
