#include "kernels/multiply.h"

#include <algorithm>
#include <vector>

#include "kernels/operands.h"
#include "kernels/panels.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

// Bytes of packed operands between which all tasks wait for each other.
constexpr std::int64_t kPackedBytes = std::int64_t{2} << 20;
// Bytes of a factor that caches hold for all threads.
constexpr std::int64_t kNearBytes = std::int64_t{2} << 20;
// Panels that a task multiplies by: kRun rows of 9 of them are 432 KiB of a 1 MiB cache.
constexpr std::int64_t kPanels = 9;
// Tiles of a that a task multiplies.
constexpr std::int64_t kTiles = 4;
// Below this many multiplications a second thread costs more than it saves.
constexpr double kWorthThreads = 2e6;

template <class T>
class Multiplication {
 public:
  Multiplication(const Matrices& a, const Matrices& b, const Matrices& out, int threads,
                 bool is_added)
      : kernels_(product_kernels<T>()),
        count_(a.count),
        all_(a.first.columns),
        out_(out),
        is_added_(is_added),
        // Rows of a that lie in one piece are as near as packed ones.
        is_a_packed_(a.first.column_stride != 1),
        is_b_packed_(!can_stay(a.first, b.first)) {
    const Matrix &left = a.first, &right = b.first;
    // A factor of all products is there once.
    for (std::int64_t i = 0; i < (a.apart == 0 ? 1 : count_); ++i) {
      a_.push_back({address(a, i), left.column_stride, left.row_stride, left.rows,
                    panel_kernels<T>().tile_height, kernels_.pack_tiles});
    }
    for (std::int64_t i = 0; i < (b.apart == 0 ? 1 : count_); ++i) {
      b_.push_back({address(b, i), right.row_stride, right.column_stride, right.columns,
                    panel_kernels<T>().panel_width, kernels_.pack_panels});
    }
    const double work = static_cast<double>(count_) * static_cast<double>(left.rows) *
                        static_cast<double>(all_) * static_cast<double>(right.columns);
    threads_ = work < kWorthThreads ? 1 : threads;
    const std::int64_t columns =
        (is_a_packed_ ? columns_of(a_) : 0) + (is_b_packed_ ? columns_of(b_) : 0);
    const std::int64_t runs = kPackedBytes / (kRun * std::max(columns, std::int64_t{1}) *
                                              static_cast<std::int64_t>(sizeof(T)));
    depth_ = std::min(all_, std::max(runs, std::int64_t{1}) * kRun);
    if (is_a_packed_) {
      for (Operand<T>& operand : a_) operand.reserve(workspace_, depth_);
    }
    if (is_b_packed_) {
      for (Operand<T>& operand : b_) operand.reserve(workspace_, depth_);
    }
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
  // Rows of b that lie in one piece and are whole vectors wide are read where they are if a cache
  // holds them all, or if few tiles of a pass over them: what one thread packs, another fetches.
  static bool can_stay(const Matrix& a, const Matrix& b) {
    const std::int64_t bytes = b.rows * b.columns * static_cast<std::int64_t>(sizeof(T));
    const bool is_short = a.rows <= kTiles * panel_kernels<T>().tile_height;
    return b.column_stride == 1 && b.columns % panel_kernels<T>().vector == 0 &&
           (is_short || bytes <= kNearBytes);
  }

  // Of all panels of an operand of each product.
  static std::int64_t columns_of(const std::vector<Operand<T>>& all) {
    return static_cast<std::int64_t>(all.size()) * all[0].panels() * all[0].width;
  }

  static const Operand<T>& part(const std::vector<Operand<T>>& all, std::int64_t i) {
    return all.size() == 1 ? all[0] : all[static_cast<std::size_t>(i)];
  }

  static const T* address(const Matrices& x, std::int64_t i) {
    return static_cast<const T*>(x.first.address) + i * x.apart;
  }

  void pack(std::int64_t first, std::int64_t depth) const {
    const std::int64_t of_b = is_b_packed_ ? b_[0].tasks(depth) : 0;
    const std::int64_t of_a = is_a_packed_ ? a_[0].tasks(depth) : 0;
    const std::int64_t of_all_b = of_b * static_cast<std::int64_t>(b_.size());
    const std::int64_t tasks = of_all_b + of_a * static_cast<std::int64_t>(a_.size());
    parallel_for(tasks, threads_, [&](std::int64_t task, int) {
      if (task < of_all_b) {
        part(b_, task / of_b).pack(workspace_, task % of_b, first, depth);
      } else {
        const std::int64_t rest = task - of_all_b;
        part(a_, rest / of_a).pack(workspace_, rest % of_a, first, depth);
      }
    });
  }

  void multiply(std::int64_t first, std::int64_t depth) const {
    const std::int64_t all_panels = b_[0].panels(), all_tiles = a_[0].panels();
    const std::int64_t across = divide_up(all_panels, kPanels);
    const std::int64_t panels = divide_up(all_panels, across);
    const std::int64_t down = divide_up(all_tiles, kTiles);
    parallel_for(count_ * across * down, threads_, [&](std::int64_t task, int) {
      const std::int64_t i = task / (across * down), part = task % (across * down);
      const std::int64_t p = part / down * panels, t = part % down * kTiles;
      const std::int64_t last_p = std::min(all_panels, p + panels);
      const std::int64_t last_t = std::min(all_tiles, t + kTiles);
      for (std::int64_t k = 0; k < depth; k += kRun) {
        for (std::int64_t tile = t; tile < last_t; ++tile) {
          for (std::int64_t panel = p; panel < last_p; ++panel) {
            multiply_tile(i, tile, panel, first, k, std::min(kRun, depth - k));
          }
        }
      }
    });
  }

  // Of the i-th product rows k of the block that begins with row `first`.
  void multiply_tile(std::int64_t i, std::int64_t tile, std::int64_t panel, std::int64_t first,
                     std::int64_t k, std::int64_t depth) const {
    const Operand<T>&a = part(a_, i), &b = part(b_, i);
    const std::int64_t row = tile * a.width, column = panel * b.width;
    isa::ProductTile<T> product;
    product.a =
        is_a_packed_ ? a.at(workspace_, tile, k) : a.address + row * a.along + (first + k) * a.step;
    product.a_row = is_a_packed_ ? 1 : a.along;
    product.a_step = is_a_packed_ ? a.width : a.step;
    product.b =
        is_b_packed_ ? b.at(workspace_, panel, k) : b.address + (first + k) * b.step + column;
    product.b_step = is_b_packed_ ? b.width : b.step;
    product.depth = depth;
    product.height = std::min(a.width, a.columns - row);
    product.width = std::min(b.width, b.columns - column);
    product.is_added = is_added_ || first + k > 0;
    product.out = const_cast<T*>(address(out_, i)) + row * out_.first.row_stride + column;
    product.out_row = out_.first.row_stride;
    kernels_.multiply_tile(product);
  }

  const isa::ProductKernels<T>& kernels_;
  const std::int64_t count_;
  std::vector<Operand<T>> a_, b_;
  const std::int64_t all_;  // columns of a, rows of b
  std::int64_t depth_ = 0;  // how many of them are packed at a time
  const Matrices out_;
  const bool is_added_;
  const bool is_a_packed_, is_b_packed_;
  int threads_ = 1;
  Workspace workspace_;
};

// Sums of nothing.
template <class T>
void fill_zeros(const Matrices& out) {
  T* const all = static_cast<T*>(const_cast<void*>(out.first.address));
  for (std::int64_t i = 0; i < out.count; ++i) {
    for (std::int64_t row = 0; row < out.first.rows; ++row) {
      std::fill_n(all + i * out.apart + row * out.first.row_stride, out.first.columns, T(0));
    }
  }
}

template <class T>
void multiply_in(const Matrices& a, const Matrices& b, const Matrices& out, int threads,
                 bool is_added) {
  if (out.count == 0 || out.first.rows == 0 || out.first.columns == 0) return;
  if (a.first.columns > 0) return Multiplication<T>(a, b, out, threads, is_added).run();
  if (!is_added) fill_zeros<T>(out);
}

}  // namespace

void multiply(const Matrices& a, const Matrices& b, const Matrices& out, int threads,
              bool is_added) {
  if (a.first.dtype == DType::kFloat64) {
    multiply_in<double>(a, b, out, threads, is_added);
  } else {
    multiply_in<float>(a, b, out, threads, is_added);
  }
}

}  // namespace bertft
