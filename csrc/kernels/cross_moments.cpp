#include "kernels/cross_moments.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#include "kernels/thread_pool.h"

namespace bertft {
namespace {

constexpr std::int64_t kRowsPerTask = 128;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Aligned to a cache line, so that no vector load of a panel straddles two.
template <class T>
T* allocate(std::int64_t count) {
  const std::size_t bytes = divide_up(std::max<std::int64_t>(count, 1) * sizeof(T), 64) * 64;
  void* memory = std::aligned_alloc(64, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return static_cast<T*>(memory);
}

template <class T>
const isa::PanelKernels<T>& panel_kernels();
template <>
const isa::PanelKernels<float>& panel_kernels<float>() {
  return isa::active().narrow;
}
template <>
const isa::PanelKernels<double>& panel_kernels<double>() {
  return isa::active().wide;
}

template <class T>
const T* panels(const Block& block);
template <>
const float* panels<float>(const Block& block) {
  return block.narrow();
}
template <>
const double* panels<double>(const Block& block) {
  return block.wide();
}

// Packs every row and returns the first that could not be scaled, or -1.
template <class T>
std::int64_t pack(const Matrix& x, const double* origin, isa::RowMap map, T* out, double* norms,
                  int threads) {
  const auto& kernels = panel_kernels<T>();
  const std::int64_t size = x.dtype == DType::kFloat64 ? 8 : x.dtype == DType::kFloat32 ? 4 : 2;
  const std::int64_t tasks = divide_up(x.rows, kRowsPerTask);
  std::vector<double> scratch(static_cast<std::size_t>(tasks * x.columns));
  std::atomic<std::int64_t> bad{x.rows};
  parallel_for(tasks, threads, [&](std::int64_t task) {
    const std::int64_t stop = std::min(x.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < stop; ++row) {
      const char* address = static_cast<const char*>(x.address) + row * x.row_stride * size;
      norms[row] = kernels.pack_row({address, x.dtype, x.column_stride}, x.columns, origin, map,
                                    row, x.rows, scratch.data() + task * x.columns, out);
      std::int64_t first = bad.load();
      while (norms[row] < 0.0 && row < first && !bad.compare_exchange_weak(first, row)) {
      }
    }
  });
  return bad.load() == x.rows ? -1 : bad.load();
}

template <class T>
void add_cross_of(const Block& x, const Block& y, double* product, double* left, double* right,
                  int threads) {
  const auto& kernels = panel_kernels<T>();
  const std::int64_t width = kernels.panel_width, height = kernels.tile_height, rows = x.rows();
  const std::int64_t x_panels = divide_up(x.columns(), width);
  const std::int64_t y_panels = divide_up(y.columns(), width);
  const bool symmetric = &x == &y;

  // One task per pair of panels: the panel of y stays in the cache while x's tiles pass.
  parallel_for(x_panels * y_panels, threads, [&](std::int64_t task) {
    const std::int64_t p = task % x_panels, q = task / x_panels;
    if (symmetric && p > q) return;
    const std::int64_t columns = std::min(width, y.columns() - q * width);
    const std::int64_t limit = std::min(width, x.columns() - p * width);
    for (std::int64_t first = 0; first < limit; first += height) {
      const std::int64_t skew = symmetric && p == q ? first : -width;
      double* out = product + (p * width + first) * y.columns() + q * width;
      kernels.add_product(panels<T>(x) + p * rows * width, panels<T>(y) + q * rows * width, rows,
                          first, std::min(height, limit - first), columns, skew, out, y.columns());
    }
  });

  const auto weigh = [&](const Block& rows_of, const Block& weights_of, double* sums) {
    parallel_for(divide_up(rows_of.columns(), width), threads, [&](std::int64_t p) {
      kernels.add_weighted(panels<T>(rows_of) + p * rows * width, rows,
                           weights_of.squared_norms().data(),
                           std::min(width, rows_of.columns() - p * width), sums + p * width);
    });
  };
  weigh(x, y, left);
  if (!symmetric) weigh(y, x, right);
}

template <class T>
void add_total_of(const Block& x, double* total, int threads) {
  const auto& kernels = panel_kernels<T>();
  const std::int64_t width = kernels.panel_width;
  parallel_for(divide_up(x.columns(), width), threads, [&](std::int64_t p) {
    kernels.add_weighted(panels<T>(x) + p * x.rows() * width, x.rows(), nullptr,
                         std::min(width, x.columns() - p * width), total + p * width);
  });
}

}  // namespace

void Block::Free::operator()(void* memory) const { std::free(memory); }

Block::Block(const Matrix& x, const double* origin, isa::RowMap map, int threads)
    : rows_(x.rows), columns_(x.columns), squared_norms_(static_cast<std::size_t>(x.rows)) {
  const auto prepare = [&](auto& panels_of, auto zero) {
    using T = decltype(zero);
    const std::int64_t width = panel_kernels<T>().panel_width;
    panels_of.reset(allocate<T>(rows_ * divide_up(columns_, width) * width));
    return pack<T>(x, origin, map, panels_of.get(), squared_norms_.data(), threads);
  };
  const std::int64_t bad =
      x.dtype == DType::kFloat64 ? prepare(wide_, 0.0) : prepare(narrow_, 0.0f);
  if (bad < 0) return;
  const std::string what =
      map == isa::RowMap::kUnit ? "rows must not be zero" : "rows must vary over their features";
  throw std::invalid_argument(what + ", got row " + std::to_string(bad) + " that cannot be scaled");
}

void add_total(const Block& x, double* total, int threads) {
  x.is_wide() ? add_total_of<double>(x, total, threads) : add_total_of<float>(x, total, threads);
}

void add_cross(const Block& x, const Block& y, double* product, double* left, double* right,
               double* weight, int threads) {
  x.is_wide() ? add_cross_of<double>(x, y, product, left, right, threads)
              : add_cross_of<float>(x, y, product, left, right, threads);
  double sum = 0.0;
  for (std::size_t row = 0; row < x.squared_norms().size(); ++row) {
    sum += x.squared_norms()[row] * y.squared_norms()[row];
  }
  *weight += sum;
}

}  // namespace bertft
