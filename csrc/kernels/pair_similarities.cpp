#include "kernels/pair_similarities.h"

#include <algorithm>
#include <vector>

#include "kernels/panels.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

constexpr std::int64_t kWidest = isa::kWidestPanel;
using Tile = double[kWidest][kWidest];

// The rows of some sides as the columns of panels, and tiles of their similarities.
template <class T>
class Similarities {
 public:
  // Throws std::bad_alloc.
  Similarities(const std::vector<PairedRows>& sides, int threads)
      : kernels_(panel_kernels<T>()),
        sides_(sides),
        rows_(sides.front().rows.rows),
        count_(divide_up(rows_, width())) {
    for (const PairedRows& side : sides_) {
      panels_.push_back(workspace_.add<T>(count_ * width() * side.rows.columns));
    }
    workspace_.allocate();
    workspace_.attach();
    parallel_for(count_ * static_cast<std::int64_t>(sides_.size()), threads,
                 [&](std::int64_t task, int) { pack(task / count_, task % count_); });
    for (std::int64_t q = 0; q < count_; ++q) {
      for (std::int64_t p = 0; p <= q; ++p) tiles_.push_back({p, q});
    }
  }

  struct Place {
    std::int64_t p, q;
  };
  const std::vector<Place>& tiles() const { return tiles_; }
  std::int64_t width() const { return kernels_.panel_width; }

  // tile[i][j] = similarity of rows p * width + i and q * width + j.
  void compute(std::int64_t side, Place place, Tile& tile) const {
    const PairedRows& x = sides_[side];
    const std::int64_t depth = x.rows.columns;
    const std::int64_t height = rows_in(place.p), columns = rows_in(place.q);
    const T* a = workspace_.at<T>(panels_[side]) + place.p * width() * depth;
    const T* b = workspace_.at<T>(panels_[side]) + place.q * width() * depth;
    std::fill_n(&tile[0][0], kWidest * kWidest, 0.0);
    for (std::int64_t i = 0; i < height; i += kernels_.tile_height) {
      kernels_.add_product(a, b, depth, i, std::min(kernels_.tile_height, height - i), columns,
                           -kWidest, tile[i], kWidest);
    }
    const double* of_i = x.offsets + place.p * width();
    const double* of_j = x.offsets + place.q * width();
    for (std::int64_t i = 0; i < height; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        tile[i][j] = x.scale * tile[i][j] + (of_i[i] + of_j[j]);
      }
    }
  }

  // Calls visit(i, first, last) for the columns of a tile's row i that lie above the diagonal.
  template <class Visit>
  void for_each_row(Place place, const Visit& visit) const {
    const std::int64_t columns = rows_in(place.q);
    for (std::int64_t i = 0; i < rows_in(place.p); ++i) {
      visit(i, place.p == place.q ? i + 1 : 0, columns);
    }
  }

 private:
  std::int64_t rows_in(std::int64_t panel) const {
    return std::min(width(), rows_ - panel * width());
  }

  void pack(std::int64_t side, std::int64_t panel) {
    const Matrix& x = sides_[side].rows;
    T* out = workspace_.at<T>(panels_[side]) + panel * width() * x.columns;
    const std::int64_t some = rows_in(panel);
    const T* row = static_cast<const T*>(x.address) + panel * width() * x.columns;
    for (std::int64_t k = 0; k < x.columns; ++k) {
      for (std::int64_t j = 0; j < some; ++j) out[k * width() + j] = row[j * x.columns + k];
      for (std::int64_t j = some; j < width(); ++j) out[k * width() + j] = T(0);
    }
  }

  const isa::PanelKernels<T>& kernels_;
  const std::vector<PairedRows>& sides_;
  const std::int64_t rows_, count_;
  std::vector<std::size_t> panels_;
  std::vector<Place> tiles_;
  Workspace workspace_;
};

template <class T>
PairSums sum_pairs_in(const std::vector<PairedRows>& sides, int threads) {
  const Similarities<T> similarities(sides, threads);
  const auto& places = similarities.tiles();
  std::vector<PairSums> partial(places.size());
  parallel_for(static_cast<std::int64_t>(places.size()), threads, [&](std::int64_t task, int) {
    Tile x, y;
    similarities.compute(0, places[task], x);
    similarities.compute(1, places[task], y);
    PairSums sums;
    similarities.for_each_row(places[task], [&](std::int64_t i, std::int64_t j, std::int64_t end) {
      for (; j < end; ++j) {
        sums.x += x[i][j];
        sums.y += y[i][j];
        sums.xx += x[i][j] * x[i][j];
        sums.yy += y[i][j] * y[i][j];
        sums.xy += x[i][j] * y[i][j];
      }
    });
    partial[task] = sums;
  });
  PairSums total;
  for (const PairSums& sums : partial) {
    total.x += sums.x;
    total.y += sums.y;
    total.xx += sums.xx;
    total.yy += sums.yy;
    total.xy += sums.xy;
  }
  return total;
}

template <class T>
void condense_in(const std::vector<PairedRows>& sides, T* condensed, int threads) {
  const Similarities<T> similarities(sides, threads);
  const auto& places = similarities.tiles();
  const std::int64_t rows = sides.front().rows.rows, width = similarities.width();
  parallel_for(static_cast<std::int64_t>(places.size()), threads, [&](std::int64_t task, int) {
    Tile tile;
    const auto place = places[task];
    similarities.compute(0, place, tile);
    similarities.for_each_row(place, [&](std::int64_t i, std::int64_t first, std::int64_t end) {
      const std::int64_t row = place.p * width + i;
      // The pairs of the rows before it, then those of this row from row + 1 on.
      const std::int64_t start = row * rows - row * (row + 1) / 2 - (row + 1) + place.q * width;
      for (std::int64_t j = first; j < end; ++j) condensed[start + j] = static_cast<T>(tile[i][j]);
    });
  });
}

}  // namespace

PairSums sum_pairs(const PairedRows& x, const PairedRows& y, int threads) {
  if (x.rows.rows < 2) return {};
  return x.rows.dtype == DType::kFloat64 ? sum_pairs_in<double>({x, y}, threads)
                                         : sum_pairs_in<float>({x, y}, threads);
}

void condense(const PairedRows& x, void* condensed, int threads) {
  if (x.rows.rows < 2) return;
  if (x.rows.dtype == DType::kFloat64) {
    condense_in<double>({x}, static_cast<double*>(condensed), threads);
  } else {
    condense_in<float>({x}, static_cast<float*>(condensed), threads);
  }
}

}  // namespace bertft
