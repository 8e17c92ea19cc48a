#include "kernels/multiply.h"

#include <algorithm>

#include "kernels/panels.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

// Columns of a that are summed at a time.
constexpr std::int64_t kRun = 256;
// Bytes of packed operands between which all tasks wait for each other.
constexpr std::int64_t kPackedBytes = std::int64_t{8} << 20;
// Panels of a task: kRun rows of 9 of them are 432 KiB of a 1 MiB cache.
constexpr std::int64_t kPanels = 9;
// Tiles of a task.
constexpr std::int64_t kTiles = 4;
// Below this many multiplications a second thread costs more than it saves.
constexpr double kWorthThreads = 1e6;

template <class T>
class Multiplication {
 public:
  Multiplication(const Matrix& a, const Matrix& b, T* out, std::int64_t out_row, int threads)
      : kernels_(product_kernels<T>()),
        width_(panel_kernels<T>().panel_width),
        height_(panel_kernels<T>().tile_height),
        a_(a),
        b_(b),
        out_(out),
        out_row_(out_row),
        tiles_(divide_up(a.rows, height_)),
        panels_(divide_up(b.columns, width_)),
        is_packed_a_(a.column_stride != 1) {
    const double work = static_cast<double>(a.rows) * static_cast<double>(a.columns) *
                        static_cast<double>(b.columns);
    threads_ = work < kWorthThreads ? 1 : threads;
    const std::int64_t each =
        (panels_ * width_ + (is_packed_a_ ? tiles_ * height_ : 0)) * sizeof(T);
    depth_ = std::min(a.columns, std::max(kPackedBytes / each / kRun, std::int64_t{1}) * kRun);
    packed_b_ = workspace_.add<T>(panels_ * width_ * depth_);
    if (is_packed_a_) packed_a_ = workspace_.add<T>(tiles_ * height_ * depth_);
  }

  void run() {
    workspace_.allocate();
    workspace_.attach();
    for (std::int64_t first = 0; first < a_.columns; first += depth_) {
      const std::int64_t depth = std::min(depth_, a_.columns - first);
      pack(first, depth);
      multiply(first, depth);
    }
  }

 private:
  const T* of_a() const { return static_cast<const T*>(a_.address); }
  const T* of_b() const { return static_cast<const T*>(b_.address); }
  // Packed columns `k`... of a block of `depth`, of a panel or tile.
  T* panel(std::int64_t p, std::int64_t depth, std::int64_t k) const {
    return workspace_.at<T>(packed_b_) + (p * depth + k) * width_;
  }
  T* tile(std::int64_t t, std::int64_t depth, std::int64_t k) const {
    return workspace_.at<T>(packed_a_) + (t * depth + k) * height_;
  }

  void pack(std::int64_t first, std::int64_t depth) const {
    const std::int64_t runs = divide_up(depth, kRun);
    const std::int64_t groups = is_packed_a_ ? divide_up(tiles_, kTiles) : 0;
    parallel_for((panels_ + groups) * runs, threads_, [&](std::int64_t task, int) {
      const std::int64_t k = task % runs * kRun, some = std::min(kRun, depth - k);
      const std::int64_t p = task / runs;
      if (p < panels_) {
        kernels_.pack_columns(of_b() + (first + k) * b_.row_stride + p * width_ * b_.column_stride,
                              b_.row_stride, b_.column_stride, some,
                              std::min(width_, b_.columns - p * width_), panel(p, depth, k));
        return;
      }
      const std::int64_t begin = (p - panels_) * kTiles;
      for (std::int64_t t = begin; t < std::min(tiles_, begin + kTiles); ++t) {
        kernels_.pack_tile(of_a() + t * height_ * a_.row_stride + (first + k) * a_.column_stride,
                           a_.column_stride, a_.row_stride, some,
                           std::min(height_, a_.rows - t * height_), tile(t, depth, k));
      }
    });
  }

  void multiply(std::int64_t first, std::int64_t depth) const {
    const std::int64_t across = divide_up(panels_, kPanels);
    const std::int64_t panels = divide_up(panels_, across);
    const std::int64_t down = divide_up(tiles_, kTiles);
    parallel_for(across * down, threads_, [&](std::int64_t task, int) {
      const std::int64_t p = task / down * panels, t = task % down * kTiles;
      for (std::int64_t k = 0; k < depth; k += kRun) {
        multiply(first, depth, k, t, std::min(tiles_, t + kTiles), p,
                 std::min(panels_, p + panels));
      }
    });
  }

  // A run of tiles [t, t_end) by panels [p, p_end): the tile of a stays in the nearest cache.
  void multiply(std::int64_t first, std::int64_t depth, std::int64_t k, std::int64_t t,
                std::int64_t t_end, std::int64_t p_begin, std::int64_t p_end) const {
    for (; t < t_end; ++t) {
      for (std::int64_t p = p_begin; p < p_end; ++p) {
        isa::ProductTile<T> product;
        if (is_packed_a_) {
          product.a = tile(t, depth, k);
          product.a_row = 1;
          product.a_step = height_;
        } else {
          product.a = of_a() + t * height_ * a_.row_stride + first + k;
          product.a_row = a_.row_stride;
          product.a_step = 1;
        }
        product.b = panel(p, depth, k);
        product.b_step = width_;
        product.depth = std::min(kRun, depth - k);
        product.height = std::min(height_, a_.rows - t * height_);
        product.width = std::min(width_, b_.columns - p * width_);
        product.is_added = first + k > 0;
        product.out = out_ + t * height_ * out_row_ + p * width_;
        product.out_row = out_row_;
        kernels_.multiply_tile(product);
      }
    }
  }

  const isa::ProductKernels<T>& kernels_;
  const std::int64_t width_, height_;
  const Matrix& a_;
  const Matrix& b_;
  T* const out_;
  const std::int64_t out_row_;
  const std::int64_t tiles_, panels_;
  const bool is_packed_a_;
  int threads_ = 1;
  std::int64_t depth_ = 0;  // columns of a that are packed at a time
  std::size_t packed_a_ = 0, packed_b_ = 0;
  Workspace workspace_;
};

template <class T>
void multiply_in(const Matrix& a, const Matrix& b, T* out, std::int64_t out_row, int threads) {
  if (a.columns == 0) {
    for (std::int64_t i = 0; i < a.rows; ++i) std::fill_n(out + i * out_row, b.columns, T(0));
  } else if (a.rows > 0 && b.columns > 0) {
    Multiplication<T>(a, b, out, out_row, threads).run();
  }
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
