#include "kernels/cross_moments.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "kernels/components.h"
#include "kernels/packed_rows.h"

namespace bertft {
namespace {

// Tasks for each thread below which panels are split, so that all threads end at one time.
constexpr std::int64_t kManyTasks = 16;
// Panels of each side in a square of products: 2 x 16 x 384 KiB fit a shared cache.
constexpr std::int64_t kSquare = 16;
// Below this many multiplications a second thread costs more than it saves.
constexpr double kWorthThreads = 2e6;

// The sums of x_j y_j, in as many partial sums as an addition takes to finish.
double dot(const double* x, const double* y, std::int64_t count) {
  double lanes[16] = {};
  for (std::int64_t j = 0; j < count; ++j) lanes[j % 16] += x[j] * y[j];
  double sum = 0.0;
  for (double lane : lanes) sum += lane;
  return sum;
}

// Calls visit(p, q) in squares that are small enough for the panels of both to stay in a shared
// cache, row by row in each.
template <class Visit>
void for_each_square(std::int64_t p_count, std::int64_t q_count, const Visit& visit) {
  for (std::int64_t q0 = 0; q0 < q_count; q0 += kSquare) {
    for (std::int64_t p0 = 0; p0 < p_count; p0 += kSquare) {
      for (std::int64_t q = q0; q < std::min(q_count, q0 + kSquare); ++q) {
        for (std::int64_t p = p0; p < std::min(p_count, p0 + kSquare); ++p) visit(p, q);
      }
    }
  }
}

// How many threads are worth their while.
int worth_threads(const Moments& moments, int threads) {
  const auto& sides = moments.sides;
  const double rows =
      static_cast<double>(sides.front().rows) * static_cast<double>(moments.maps.size());
  double work = 0.0;
  for (const Matrix& x : sides) work += 10.0 * rows * static_cast<double>(x.columns);
  for (const auto& [a, b] : moments.pairs) {
    work += rows * static_cast<double>(sides[a].columns) * static_cast<double>(sides[b].columns);
  }
  return work < kWorthThreads ? 1 : threads;
}

// The rows of one call, and the products of their panels.
template <class T>
class Accumulation {
 public:
  Accumulation(const Moments& moments, int threads)
      : moments_(moments),
        threads_(worth_threads(moments, threads)),
        rows_(moments, threads_, workspace_) {
    list_tiles();
  }

  const Workspace& workspace() const { return workspace_; }

  // The first row that cannot be added, without adding any.
  FirstFault check() {
    workspace_.attach();
    rows_.check();
    return rows_.fault();
  }

  // Adds all rows; on a fault, those of the blocks before it.
  FirstFault run() {
    workspace_.attach();
    for (std::int64_t first = 0; first < rows_.rows(); first += PackedRows<T>::kBlock) {
      const std::int64_t some = std::min(PackedRows<T>::kBlock, rows_.rows() - first);
      rows_.pack(first, some);
      if (rows_.fault().fault != Fault::kNone) break;
      parallel_for(static_cast<std::int64_t>(tiles_.size()), threads_,
                   [&](std::int64_t task, int) { multiply(tiles_[task], some); });
      rows_.add_partial_sums(some);
    }
    return rows_.fault();
  }

 private:
  // Some columns of panel p of x, from `row` on, by panel q of y, of a pair under a row map.
  struct Tile {
    std::int32_t map, pair, p, q, row;
  };

  void list_tiles() {
    const auto maps = static_cast<std::int64_t>(moments_.maps.size());
    const auto pairs = static_cast<std::int64_t>(moments_.pairs.size());
    const std::int64_t width = rows_.width();
    std::int64_t panels = 0;
    for (const auto& [a, b] : moments_.pairs) {
      panels += maps * rows_.panel_count(a) * rows_.panel_count(b);
    }
    part_ = panels < kManyTasks * threads_ ? width / 3 : width;
    for (std::int64_t map = 0; map < maps; ++map) {
      for (std::int64_t pair = 0; pair < pairs; ++pair) {
        const auto [a, b] = moments_.pairs[pair];
        const std::int64_t p_count = rows_.panel_count(a), q_count = rows_.panel_count(b);
        for_each_square(p_count, q_count, [&](std::int64_t p, std::int64_t q) {
          if (a == b && p > q) return;
          const std::int64_t height = std::min(width, moments_.sides[a].columns - p * width);
          for (std::int64_t row = 0; row < height; row += part_) {
            tiles_.push_back({static_cast<std::int32_t>(map), static_cast<std::int32_t>(pair),
                              static_cast<std::int32_t>(p), static_cast<std::int32_t>(q),
                              static_cast<std::int32_t>(row)});
          }
        });
      }
    }
  }

  // The panel of y stays in the cache while x's tiles pass. The small sums of a panel go with the
  // first task that reads it.
  void multiply(const Tile& tile, std::int64_t rows) const {
    const auto [a, b] = moments_.pairs[tile.pair];
    const Cross& cross = moments_.maps[tile.map].crosses[tile.pair];
    const std::int64_t dx = moments_.sides[a].columns, dy = moments_.sides[b].columns;
    const std::int64_t width = rows_.width(), i = tile.p * width, j = tile.q * width;
    const T* x = rows_.panels(a, tile.map) + i * rows_.panel_rows();
    const T* y = rows_.panels(b, tile.map) + j * rows_.panel_rows();
    const std::int64_t height = std::min(width, dx - i), columns = std::min(width, dy - j);
    const bool is_own = a == b;
    const std::int64_t last = std::min(height, tile.row + part_);
    for (std::int64_t row = tile.row; row < last; row += kernels_.tile_height) {
      const std::int64_t skew = is_own && tile.p == tile.q ? row : -width;
      kernels_.add_product(x, y, rows, row, std::min(kernels_.tile_height, last - row), columns,
                           skew, cross.product + (i + row) * dy + j, dy);
    }
    if (tile.row > 0) return;
    const double* k = rows_.squares(a, tile.map);
    const double* l = rows_.squares(b, tile.map);
    if (tile.q == (is_own ? tile.p : 0)) kernels_.add_weighted(x, rows, l, height, cross.left + i);
    if (tile.p == 0 && !is_own) kernels_.add_weighted(y, rows, k, columns, cross.right + j);
    if (tile.p == 0 && tile.q == 0) *cross.weight += dot(k, l, rows);
  }

  const isa::PanelKernels<T>& kernels_ = panel_kernels<T>();
  const Moments& moments_;
  const int threads_;
  std::int64_t part_ = 0;  // columns of x in a task: a panel, or one cache line of it
  std::vector<Tile> tiles_;
  Workspace workspace_;
  PackedRows<T> rows_;
};

template <class T>
FirstFault accumulate_in(const Moments& moments, int threads) {
  const std::vector<Component> parts = components(moments);
  std::deque<Accumulation<T>> accumulations;
  for (const Component& part : parts) {
    accumulations.emplace_back(part.moments, threads).workspace().allocate();
  }
  FirstFault first;
  const auto note = [&](FirstFault fault, const Component& part) {
    fault.side = part.sides[fault.side];
    const bool is_first = std::pair(fault.row, fault.side) < std::pair(first.row, first.side);
    if (fault.fault != Fault::kNone && (first.fault == Fault::kNone || is_first)) first = fault;
  };
  // A single block of a single component is checked as it is packed.
  if (parts.size() > 1 || moments.sides.front().rows > PackedRows<T>::kBlock) {
    for (std::size_t i = 0; i < parts.size(); ++i) note(accumulations[i].check(), parts[i]);
  }
  for (std::size_t i = 0; i < parts.size() && first.fault == Fault::kNone; ++i) {
    note(accumulations[i].run(), parts[i]);
  }
  return first;
}

}  // namespace

FirstFault accumulate(const Moments& moments, int threads) {
  if (moments.sides.empty() || moments.sides.front().rows == 0) return {};
  const bool is_wide = moments.sides.front().dtype == DType::kFloat64;
  return is_wide ? accumulate_in<double>(moments, threads) : accumulate_in<float>(moments, threads);
}

}  // namespace bertft
