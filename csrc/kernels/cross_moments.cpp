#include "kernels/cross_moments.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <numeric>
#include <utility>

#include "kernels/components.h"
#include "kernels/panels.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

// Rows that one task packs, and whose partial sums are added in order.
constexpr std::int64_t kChunk = 32;
// Rows between which all products wait for each other: two panels of them fit a 1 MiB cache.
constexpr std::int64_t kBlock = 2048;
// Tasks for each thread below which panels are split, so that all threads end at one time.
constexpr std::int64_t kManyTasks = 16;
// Panels of each side in a square of products: 2 x 16 x 384 KiB fit a shared cache.
constexpr std::int64_t kSquare = 16;
// Rows that a task reads at a time: those of all sides stay in the cache for the distances.
constexpr std::int64_t kGroup = 8;
// Below this many multiplications a second thread costs more than it saves.
constexpr double kWorthThreads = 2e6;

// Whether rows can be packed where they are.
template <class T>
bool is_direct(const Matrix& x) {
  return x.dtype == (sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32) &&
         (x.column_stride == 1 || x.columns <= 1);
}

// Whether T holds every value.
template <class T>
bool is_exact(const double* values, std::int64_t count) {
  bool exact = true;
  for (std::int64_t j = 0; j < count; ++j) {
    exact &= static_cast<double>(static_cast<T>(values[j])) == values[j];
  }
  return exact;
}

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

// The rows of one call, packed under every row map, and the products of their panels.
template <class T>
class Accumulation {
 public:
  Accumulation(const Moments& moments, int threads)
      : kernels_(panel_kernels<T>()),
        moments_(moments),
        sides_(moments.sides),
        rows_(sides_.front().rows),
        panel_rows_(divide_up(std::min(rows_, kBlock), 64) * 64 + 8),
        packed_(sides_.size()) {
    double work = 0.0;
    for (const Matrix& x : sides_) work += 10.0 * rows_ * maps() * x.columns;
    for (const auto& [a, b] : moments_.pairs) {
      work += static_cast<double>(rows_ * maps()) * sides_[a].columns * sides_[b].columns;
    }
    threads_ = work < kWorthThreads ? 1 : threads;
    for (std::int64_t side = 0; side < count(); ++side) {
      const Matrix& x = sides_[side];
      packed_[side].column = columns_;
      columns_ += x.columns;
      if (!is_direct<T>(x)) {
        packed_[side].widened = workspace_.add<T>(threads_ * kGroup * x.columns);
      }
      for (std::int64_t map = 0; map < maps(); ++map) {
        packed_[side].panels.push_back(
            workspace_.add<T>(panel_rows_ * panel_count(side) * width()));
        packed_[side].squares.push_back(workspace_.add<double>(panel_rows_));
      }
    }
    const std::int64_t chunks = divide_up(std::min(rows_, kBlock), kChunk);
    totals_ = workspace_.add<double>(chunks * maps() * columns_);
    norms_ = workspace_.add<double>(chunks * count());
    distances_ = workspace_.add<double>(chunks * pair_count());
    for (const MappedSums& sums : moments_.maps) {
      for (std::int64_t side = 0; side < count(); ++side) {
        is_plain_.push_back(sums.row_map == isa::RowMap::kRaw &&
                            is_exact<T>(sums.origins[side], sides_[side].columns));
      }
    }
    list_tiles();
  }

  const Workspace& workspace() const { return workspace_; }

  // The first row that cannot be added, without adding any.
  FirstFault check() {
    workspace_.attach();
    for_each_chunk(0, rows_, [&](std::int64_t first, std::int64_t some, int worker) {
      check(first, some, worker);
    });
    return fault_;
  }

  // Adds all rows; on a fault, those of the blocks before it.
  FirstFault run() {
    workspace_.attach();
    for (std::int64_t first = 0; first < rows_ && fault_.fault == Fault::kNone; first += kBlock) {
      const std::int64_t rows = std::min(kBlock, rows_ - first);
      for_each_chunk(first, rows, [&](std::int64_t row, std::int64_t some, int worker) {
        pack(row, some, row - first, worker);
      });
      if (fault_.fault != Fault::kNone) break;
      parallel_for(static_cast<std::int64_t>(tiles_.size()), threads_,
                   [&](std::int64_t task, int) { multiply(tiles_[task], rows); });
      add_partial_sums(rows);
    }
    return fault_;
  }

 private:
  // Where the rows of a side lie, by row map, and where its totals begin.
  struct Packed {
    std::int64_t column = 0;
    std::size_t widened = 0;
    std::vector<std::size_t> panels, squares;
  };
  // Some columns of panel p of x, from `row` on, by panel q of y, of a pair under a row map.
  struct Tile {
    std::int32_t map, pair, p, q, row;
  };
  // Some rows in T, gathered where they had to be.
  struct Group {
    const T* rows;
    std::int64_t stride;
    const T* row(std::int64_t i) const { return rows + i * stride; }
  };

  std::int64_t width() const { return kernels_.panel_width; }
  std::int64_t count() const { return static_cast<std::int64_t>(sides_.size()); }
  std::int64_t maps() const { return static_cast<std::int64_t>(moments_.maps.size()); }
  std::int64_t pair_count() const { return static_cast<std::int64_t>(moments_.pairs.size()); }
  std::int64_t panel_count(std::int64_t side) const {
    return divide_up(sides_[side].columns, width());
  }

  T* panels(std::int64_t side, std::int64_t map) const {
    return workspace_.at<T>(packed_[side].panels[map]);
  }
  double* squares(std::int64_t side, std::int64_t map) const {
    return workspace_.at<double>(packed_[side].squares[map]);
  }
  // Partial sums of a chunk of rows.
  double* totals(std::int64_t chunk, std::int64_t map, std::int64_t side) const {
    return workspace_.at<double>(totals_) + (chunk * maps() + map) * columns_ +
           packed_[side].column;
  }
  double* norms(std::int64_t chunk) const {
    return workspace_.at<double>(norms_) + chunk * count();
  }
  double* distances(std::int64_t chunk) const {
    return workspace_.at<double>(distances_) + chunk * pair_count();
  }

  void list_tiles() {
    std::int64_t panels = 0;
    for (const auto& [a, b] : moments_.pairs) panels += maps() * panel_count(a) * panel_count(b);
    part_ = panels < kManyTasks * threads_ ? width() / 3 : width();
    for (std::int64_t map = 0; map < maps(); ++map) {
      for (std::int64_t pair = 0; pair < pair_count(); ++pair) {
        const auto [a, b] = moments_.pairs[pair];
        for_each_square(panel_count(a), panel_count(b), [&](std::int64_t p, std::int64_t q) {
          if (a == b && p > q) return;
          const std::int64_t height = std::min(width(), sides_[a].columns - p * width());
          for (std::int64_t row = 0; row < height; row += part_) {
            tiles_.push_back({static_cast<std::int32_t>(map), static_cast<std::int32_t>(pair),
                              static_cast<std::int32_t>(p), static_cast<std::int32_t>(q),
                              static_cast<std::int32_t>(row)});
          }
        });
      }
    }
  }

  // Calls visit(first, some, worker) for chunks of the rows from `first` on.
  template <class Visit>
  void for_each_chunk(std::int64_t first, std::int64_t rows, const Visit& visit) const {
    parallel_for(divide_up(rows, kChunk), threads_, [&](std::int64_t chunk, int worker) {
      visit(first + chunk * kChunk, std::min(kChunk, rows - chunk * kChunk), worker);
    });
  }

  // Rows of a side in T: where they are, or where `widen` puts them.
  Group rows_at(std::int64_t side, std::int64_t first, int worker) const {
    const Matrix& x = sides_[side];
    if (is_direct<T>(x)) {
      return {static_cast<const T*>(x.address) + first * x.row_stride, x.row_stride};
    }
    return {workspace_.at<T>(packed_[side].widened) + worker * kGroup * x.columns, x.columns};
  }

  Group widen(std::int64_t side, std::int64_t first, std::int64_t some, int worker) const {
    const Matrix& x = sides_[side];
    if (is_direct<T>(x)) return rows_at(side, first, worker);
    T* out = workspace_.at<T>(packed_[side].widened) + worker * kGroup * x.columns;
    for (std::int64_t i = 0; i < some; ++i) {
      const char* address = static_cast<const char*>(x.address);
      address += (first + i) * x.row_stride * size_of(x.dtype);
      kernels_.widen({address, x.dtype, x.column_stride}, x.columns, out + i * x.columns);
    }
    return {out, x.columns};
  }

  void check(std::int64_t first, std::int64_t rows, int worker) {
    for (std::int64_t row = first; row < first + rows; ++row) {
      for (std::int64_t side = 0; side < count(); ++side) {
        const Group x = widen(side, row, 1, worker);
        for (const MappedSums& sums : moments_.maps) {
          report(kernels_.size_of_row(x.rows, sides_[side].columns, sums.row_map), sums.row_map,
                 side, row);
        }
      }
    }
  }

  // Packs rows `first`... as rows `place`... of the block.
  void pack(std::int64_t first, std::int64_t rows, std::int64_t place, int worker) {
    const std::int64_t chunk = place / kChunk;
    std::fill_n(norms(chunk), count(), 0.0);
    std::fill_n(distances(chunk), pair_count(), 0.0);
    std::fill_n(totals(chunk, 0, 0), maps() * columns_, 0.0);
    for (std::int64_t done = 0; done < rows; done += kGroup) {
      const std::int64_t some = std::min(kGroup, rows - done);
      for (std::int64_t side = 0; side < count(); ++side) {
        pack(widen(side, first + done, some, worker), side, first + done, some, place + done);
      }
      for (std::int64_t pair = 0; pair < pair_count(); ++pair) {
        const auto [a, b] = moments_.pairs[pair];
        if (a == b || sides_[a].columns != sides_[b].columns) continue;
        const Group x = rows_at(a, first + done, worker), y = rows_at(b, first + done, worker);
        for (std::int64_t i = 0; i < some; ++i) {
          distances(chunk)[pair] += kernels_.distance(x.row(i), y.row(i), sides_[a].columns);
        }
      }
    }
  }

  void pack(Group x, std::int64_t side, std::int64_t first, std::int64_t some, std::int64_t place) {
    const std::int64_t columns = sides_[side].columns, chunk = place / kChunk;
    isa::RowSize sizes[kGroup];
    for (std::int64_t map = 0; map < maps(); ++map) {
      const MappedSums& sums = moments_.maps[map];
      for (std::int64_t i = 0; i < some; ++i) {
        sizes[i] = kernels_.size_of_row(x.row(i), columns, sums.row_map);
        if (map == 0) norms(chunk)[side] += sizes[i].norm;
        report(sizes[i], sums.row_map, side, first + i);
      }
      kernels_.pack_rows(x.rows, x.stride, some, columns, sums.origins[side],
                         is_plain_[map * count() + side] ? nullptr : sizes, place, panel_rows_,
                         panels(side, map), squares(side, map) + place, totals(chunk, map, side));
    }
  }

  void report(const isa::RowSize& size, isa::RowMap map, std::int64_t side, std::int64_t row) {
    if (size.is_finite && (map == isa::RowMap::kRaw || size.scale != 0.0)) return;
    const Fault fault = !size.is_finite             ? Fault::kNotFinite
                        : map == isa::RowMap::kUnit ? Fault::kZero
                                                    : Fault::kConstant;
    const std::lock_guard<std::mutex> lock(reporting_);
    if (fault_.fault == Fault::kNone || std::pair(row, side) < std::pair(fault_.row, fault_.side)) {
      fault_ = {fault, side, row};
    }
  }

  // The panel of y stays in the cache while x's tiles pass. The small sums of a panel go with the
  // first task that reads it.
  void multiply(const Tile& tile, std::int64_t rows) const {
    const auto [a, b] = moments_.pairs[tile.pair];
    const Cross& cross = moments_.maps[tile.map].crosses[tile.pair];
    const std::int64_t dx = sides_[a].columns, dy = sides_[b].columns;
    const std::int64_t i = tile.p * width(), j = tile.q * width();
    const T* x = panels(a, tile.map) + i * panel_rows_;
    const T* y = panels(b, tile.map) + j * panel_rows_;
    const std::int64_t height = std::min(width(), dx - i), columns = std::min(width(), dy - j);
    const bool is_own = a == b;
    const std::int64_t last = std::min(height, tile.row + part_);
    for (std::int64_t row = tile.row; row < last; row += kernels_.tile_height) {
      const std::int64_t skew = is_own && tile.p == tile.q ? row : -width();
      kernels_.add_product(x, y, rows, row, std::min(kernels_.tile_height, last - row), columns,
                           skew, cross.product + (i + row) * dy + j, dy);
    }
    if (tile.row > 0) return;
    const double* k = squares(a, tile.map);
    const double* l = squares(b, tile.map);
    if (tile.q == (is_own ? tile.p : 0)) kernels_.add_weighted(x, rows, l, height, cross.left + i);
    if (tile.p == 0 && !is_own) kernels_.add_weighted(y, rows, k, columns, cross.right + j);
    if (tile.p == 0 && tile.q == 0) *cross.weight += dot(k, l, rows);
  }

  void add_partial_sums(std::int64_t rows) const {
    for (std::int64_t map = 0; map < maps(); ++map) {
      for (std::int64_t side = 0; side < count(); ++side) {
        const double* k = squares(side, map);
        *moments_.maps[map].squares[side] += std::accumulate(k, k + rows, 0.0);
      }
    }
    for (std::int64_t chunk = 0; chunk < divide_up(rows, kChunk); ++chunk) {
      for (std::int64_t side = 0; side < count(); ++side) {
        *moments_.norms[side] += norms(chunk)[side];
        for (std::int64_t map = 0; map < maps(); ++map) {
          const double* partial = totals(chunk, map, side);
          double* total = moments_.maps[map].totals[side];
          for (std::int64_t j = 0; j < sides_[side].columns; ++j) total[j] += partial[j];
        }
      }
      for (std::int64_t pair = 0; pair < pair_count(); ++pair) {
        *moments_.distances[pair] += distances(chunk)[pair];
      }
    }
  }

  const isa::PanelKernels<T>& kernels_;
  const Moments& moments_;
  const std::vector<Matrix>& sides_;
  const std::int64_t rows_;
  // Rows from one panel to the next: not a multiple of 4 KiB, where all panels would meet in the
  // same lines of the cache.
  const std::int64_t panel_rows_;
  int threads_ = 1;
  std::int64_t columns_ = 0;
  std::int64_t part_ = 0;  // columns of x in a task: a panel, or one cache line of it
  std::vector<Packed> packed_;
  std::vector<bool> is_plain_;  // by row map and side: rows less the origin, in T
  std::size_t totals_ = 0, norms_ = 0, distances_ = 0;
  std::vector<Tile> tiles_;
  Workspace workspace_;
  std::mutex reporting_;
  FirstFault fault_;
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
  if (parts.size() > 1 || moments.sides.front().rows > kBlock) {
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
