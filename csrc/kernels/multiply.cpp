#include "kernels/multiply.h"

#include <algorithm>

#include "kernels/operands.h"
#include "kernels/panels.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

// Bytes of packed operands between which all tasks wait for each other.
constexpr std::int64_t kPackedBytes = std::int64_t{2} << 20;
// Panels that a task multiplies by: kRun rows of 9 of them are 432 KiB of a 1 MiB cache.
constexpr std::int64_t kPanels = 9;
// Tiles of a that a task multiplies.
constexpr std::int64_t kTiles = 4;
// Below this many multiplications a second thread costs more than it saves.
constexpr double kWorthThreads = 2e6;

template <class T>
class Multiplication {
 public:
  Multiplication(const Matrix& a, const Matrix& b, T* out, std::int64_t out_row, int threads)
      : kernels_(product_kernels<T>()),
        a_{address(a),
           a.column_stride,
           a.row_stride,
           a.rows,
           panel_kernels<T>().tile_height,
           kernels_.pack_tiles},
        b_{address(b),
           b.row_stride,
           b.column_stride,
           b.columns,
           panel_kernels<T>().panel_width,
           kernels_.pack_panels},
        all_(a.columns),
        out_(out),
        out_row_(out_row),
        // Rows of a that lie in one piece are as near as packed ones.
        is_packed_(a.column_stride != 1) {
    const double work = static_cast<double>(a.rows) * static_cast<double>(a.columns) *
                        static_cast<double>(b.columns);
    threads_ = work < kWorthThreads ? 1 : threads;
    const std::int64_t columns = b_.panels() * b_.width + (is_packed_ ? a_.panels() * a_.width : 0);
    const std::int64_t runs =
        kPackedBytes / (kRun * columns * static_cast<std::int64_t>(sizeof(T)));
    depth_ = std::min(all_, std::max(runs, std::int64_t{1}) * kRun);
    b_.reserve(workspace_, depth_);
    if (is_packed_) a_.reserve(workspace_, depth_);
    workspace_.allocate();
    workspace_.attach();
  }

  void run() const {
    for (std::int64_t first = 0; first < all_; first += depth_) {
      const std::int64_t depth = std::min(depth_, all_ - first);
      pack(first, depth);
      multiply(first, depth);
    }
  }

 private:
  static const T* address(const Matrix& x) { return static_cast<const T*>(x.address); }

  void pack(std::int64_t first, std::int64_t depth) const {
    const std::int64_t of_b = b_.tasks(depth), of_a = is_packed_ ? a_.tasks(depth) : 0;
    parallel_for(of_b + of_a, threads_, [&](std::int64_t task, int) {
      if (task < of_b) {
        b_.pack(workspace_, task, first, depth);
      } else {
        a_.pack(workspace_, task - of_b, first, depth);
      }
    });
  }

  void multiply(std::int64_t first, std::int64_t depth) const {
    const std::int64_t across = divide_up(b_.panels(), kPanels);
    const std::int64_t panels = divide_up(b_.panels(), across);
    const std::int64_t down = divide_up(a_.panels(), kTiles);
    parallel_for(across * down, threads_, [&](std::int64_t task, int) {
      const std::int64_t p = task / down * panels, t = task % down * kTiles;
      const std::int64_t last_p = std::min(b_.panels(), p + panels);
      const std::int64_t last_t = std::min(a_.panels(), t + kTiles);
      for (std::int64_t k = 0; k < depth; k += kRun) {
        for (std::int64_t tile = t; tile < last_t; ++tile) {
          for (std::int64_t panel = p; panel < last_p; ++panel) {
            multiply_tile(tile, panel, first, k, std::min(kRun, depth - k));
          }
        }
      }
    });
  }

  // Rows k of the block that begins with row `first`.
  void multiply_tile(std::int64_t tile, std::int64_t panel, std::int64_t first, std::int64_t k,
                     std::int64_t depth) const {
    const std::int64_t row = tile * a_.width, column = panel * b_.width;
    isa::ProductTile<T> product;
    product.a = is_packed_ ? a_.at(workspace_, tile, k)
                           : a_.address + row * a_.along + (first + k) * a_.step;
    product.a_row = is_packed_ ? 1 : a_.along;
    product.a_step = is_packed_ ? a_.width : a_.step;
    product.b = b_.at(workspace_, panel, k);
    product.b_step = b_.width;
    product.depth = depth;
    product.height = std::min(a_.width, a_.columns - row);
    product.width = std::min(b_.width, b_.columns - column);
    product.is_added = first + k > 0;
    product.out = out_ + row * out_row_ + column;
    product.out_row = out_row_;
    kernels_.multiply_tile(product);
  }

  const isa::ProductKernels<T>& kernels_;
  Operand<T> a_, b_;
  const std::int64_t all_;  // columns of a, rows of b
  std::int64_t depth_ = 0;  // how many of them are packed at a time
  T* const out_;
  const std::int64_t out_row_;
  const bool is_packed_;
  int threads_ = 1;
  Workspace workspace_;
};

template <class T>
void multiply_in(const Matrix& a, const Matrix& b, T* out, std::int64_t out_row, int threads) {
  if (a.rows == 0 || b.columns == 0) return;
  if (a.columns == 0) {
    for (std::int64_t i = 0; i < a.rows; ++i) std::fill_n(out + i * out_row, b.columns, T(0));
    return;
  }
  Multiplication<T>(a, b, out, out_row, threads).run();
}

}  // namespace

void multiply(const Matrix& a, const Matrix& b, void* out, std::int64_t out_row, int threads) {
  if (a.dtype == DType::kFloat64) {
    multiply_in(a, b, static_cast<double*>(out), out_row, threads);
  } else {
    multiply_in(a, b, static_cast<float*>(out), out_row, threads);
  }
}

}  // namespace bertft
