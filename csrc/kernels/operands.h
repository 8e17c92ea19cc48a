// Operands of products, packed for register tiles.
#pragma once

#include <algorithm>

#include "kernels/panels.h"
#include "kernels/workspace.h"

namespace bertft {

// Rows that are summed at a time: a tile of the one operand stays in the nearest cache while panels
// of the other pass.
constexpr std::int64_t kRun = 256;

// A (depth, columns) matrix as panels of some columns, and the tasks that pack it.
template <class T>
struct Operand {
  using Pack = void (*)(const T*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                        std::int64_t, T*);
  // Rows that a task packs in the order in which they lie, and columns that lie so of one panel.
  static constexpr std::int64_t kPackedRows = 64;

  const T* address;
  std::int64_t step, along, columns;  // elements from one row, and from one column, to the next
  std::int64_t width;                 // of a panel
  Pack pack_panels;
  std::int64_t rows = 0;  // from one panel to the next
  std::size_t place = 0;

  std::int64_t panels() const { return divide_up(columns, width); }
  // Rows lie in one piece: all panels are packed together, else each by itself.
  bool has_rows() const { return along == 1; }
  std::int64_t rows_of_task() const { return has_rows() ? kPackedRows : kRun; }
  std::int64_t tasks(std::int64_t depth) const {
    return divide_up(depth, rows_of_task()) * (has_rows() ? 1 : panels());
  }

  // Panels of up to `depth` rows, not a multiple of 4 KiB apart: they would meet in the same lines
  // of the cache.
  void reserve(Workspace& workspace, std::int64_t depth) {
    rows = divide_up(depth, 64) * 64 + 8;
    place = workspace.add<T>(panels() * width * rows);
  }
  T* at(const Workspace& workspace, std::int64_t panel, std::int64_t k) const {
    return workspace.at<T>(place) + (panel * rows + k) * width;
  }

  void pack(const Workspace& workspace, std::int64_t task, std::int64_t first,
            std::int64_t depth) const {
    const std::int64_t panel = has_rows() ? 0 : task % panels();
    const std::int64_t k = (has_rows() ? task : task / panels()) * rows_of_task();
    pack_panels(address + (first + k) * step + panel * width * along, step, along,
                std::min(rows_of_task(), depth - k),
                has_rows() ? columns : std::min(width, columns - panel * width), rows * width,
                at(workspace, panel, k));
  }
};

// Part of a product with a packed operand: out (rows, count) = a (rows, depth) times its columns
// from `first`, with which a panel begins, or out += that. Rows of a and of out are contiguous,
// a_row and out_row elements apart.
template <class T>
void multiply_panels(const T* a, std::int64_t a_row, std::int64_t rows, const Operand<T>& b,
                     const Workspace& workspace, std::int64_t depth, std::int64_t first,
                     std::int64_t count, bool is_added, T* out, std::int64_t out_row) {
  const auto multiply_tile = product_kernels<T>().multiply_tile;
  // Tiles of like heights: a low one waits for its few sums.
  const std::int64_t tiles = divide_up(rows, panel_kernels<T>().tile_height);
  for (std::int64_t k = 0; k < depth; k += kRun) {
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t row = rows * tile / tiles, end = rows * (tile + 1) / tiles;
      for (std::int64_t j = 0; j < count; j += b.width) {
        multiply_tile({a + row * a_row + k, a_row, 1, b.at(workspace, (first + j) / b.width, k),
                       b.width, std::min(kRun, depth - k), end - row, std::min(b.width, count - j),
                       is_added || k > 0, out + row * out_row + j, out_row});
      }
    }
  }
}

}  // namespace bertft
