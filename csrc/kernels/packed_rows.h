// Rows of several sides, packed under every row map, with the small sums that need no products.
#pragma once

#include <algorithm>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/cross_moments.h"
#include "kernels/panels.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {

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

// A block of rows at a time: panels of each side, and by chunks of rows, whoever packed them, sums
// that are added in their order.
template <class T>
class PackedRows {
 public:
  // Rows between which all products wait for each other: two panels of them fit a 1 MiB cache.
  static constexpr std::int64_t kBlock = 2048;

  PackedRows(const Moments& moments, int threads, Workspace& workspace)
      : moments_(moments),
        sides_(moments.sides),
        threads_(threads),
        panel_rows_(divide_up(std::min(rows(), kBlock), 64) * 64 + 8),
        packed_(sides_.size()),
        workspace_(workspace) {
    for (std::int64_t side = 0; side < count(); ++side) {
      const Matrix& x = sides_[side];
      packed_[side].column = columns_;
      columns_ += x.columns;
      if (!is_direct<T>(x)) {
        packed_[side].widened = workspace.add<T>(threads_ * kGroup * x.columns);
      }
      for (std::int64_t map = 0; map < maps(); ++map) {
        packed_[side].panels.push_back(workspace.add<T>(panel_rows_ * panel_count(side) * width()));
        packed_[side].squares.push_back(workspace.add<double>(panel_rows_));
      }
    }
    const std::int64_t chunks = divide_up(std::min(rows(), kBlock), kChunk);
    totals_ = workspace.add<double>(chunks * maps() * columns_);
    norms_ = workspace.add<double>(chunks * count());
    distances_ = workspace.add<double>(chunks * pair_count());
    for (const MappedSums& sums : moments_.maps) {
      for (std::int64_t side = 0; side < count(); ++side) {
        is_plain_.push_back(sums.row_map == isa::RowMap::kRaw &&
                            is_exact<T>(sums.origins[side], sides_[side].columns));
      }
    }
  }

  std::int64_t rows() const { return sides_.front().rows; }
  std::int64_t panel_rows() const { return panel_rows_; }
  std::int64_t width() const { return kernels_.panel_width; }
  std::int64_t panel_count(std::int64_t side) const {
    return divide_up(sides_[side].columns, width());
  }
  T* panels(std::int64_t side, std::int64_t map) const {
    return workspace_.at<T>(packed_[side].panels[map]);
  }
  double* squares(std::int64_t side, std::int64_t map) const {
    return workspace_.at<double>(packed_[side].squares[map]);
  }
  // The first row so far that cannot be added.
  const FirstFault& fault() const { return fault_; }

  // Looks at all rows, and packs none.
  void check() {
    for_each_chunk(0, rows(), [&](std::int64_t first, std::int64_t some, int worker) {
      check(first, some, worker);
    });
  }

  // Packs some rows.
  void pack(std::int64_t first, std::int64_t rows) {
    for_each_chunk(first, rows, [&](std::int64_t row, std::int64_t some, int worker) {
      pack(row, some, row - first, worker);
    });
  }

  // Adds what needs no products of the rows that are packed.
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

 private:
  // Rows that one task packs, and whose partial sums are added in order.
  static constexpr std::int64_t kChunk = 32;
  // Rows that a task reads at a time: those of all sides stay in the cache for the distances.
  static constexpr std::int64_t kGroup = 8;

  // Where the rows of a side lie, by row map, and where its totals begin.
  struct Packed {
    std::int64_t column = 0;
    std::size_t widened = 0;
    std::vector<std::size_t> panels, squares;
  };
  // Some rows in T, gathered where they had to be.
  struct Group {
    const T* rows;
    std::int64_t stride;
    const T* row(std::int64_t i) const { return rows + i * stride; }
  };

  std::int64_t count() const { return static_cast<std::int64_t>(sides_.size()); }
  std::int64_t maps() const { return static_cast<std::int64_t>(moments_.maps.size()); }
  std::int64_t pair_count() const { return static_cast<std::int64_t>(moments_.pairs.size()); }

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

  const isa::PanelKernels<T>& kernels_ = panel_kernels<T>();
  const Moments& moments_;
  const std::vector<Matrix>& sides_;
  const int threads_;
  // Rows from one panel to the next: not a multiple of 4 KiB, where all panels would meet in the
  // same lines of the cache.
  const std::int64_t panel_rows_;
  std::int64_t columns_ = 0;
  std::vector<Packed> packed_;
  std::vector<bool> is_plain_;  // by row map and side: rows less the origin, in T
  std::size_t totals_ = 0, norms_ = 0, distances_ = 0;
  const Workspace& workspace_;
  std::mutex reporting_;
  FirstFault fault_;
};

}  // namespace bertft
