// The inner loops, compiled once per instruction set, behind one table of pointers.
//
// Panels: a packed block stores its columns in panels of `panel_width` columns, each panel
// row-major (rows x panel_width), so that the same panel serves as either operand of a
// product. Columns past the last one are zero.
#pragma once

#include <cstdint>

#include "kernels/dtypes.h"

namespace bertft::isa {

enum class RowMap { kRaw, kUnit, kCenteredUnit };

// One row in memory: `stride` in elements.
struct RowView {
  const void* address;
  DType dtype;
  std::int64_t stride;
};

template <class T>
struct PanelKernels {
  std::int64_t panel_width;
  std::int64_t tile_height;  // divides panel_width

  // Packs row `row` of a block of `rows` rows: value = mapped(x) - origin. Returns the squared
  // norm of the packed row, or a negative number if the row cannot be scaled to unit length.
  // `scratch` holds `columns` doubles.
  double (*pack_row)(RowView x, std::int64_t columns, const double* origin, RowMap map,
                     std::int64_t row, std::int64_t rows, double* scratch, T* panels);

  // product[i * stride + j] += sum_r a[r][first + i] * b[r][j] for i < height, j < width, and
  // only j >= i + skew where the tile crosses the diagonal of a symmetric product.
  void (*add_product)(const T* a, const T* b, std::int64_t rows, std::int64_t first,
                      std::int64_t height, std::int64_t width, std::int64_t skew, double* product,
                      std::int64_t stride);

  // sums[j] += sum_r weights[r] * panel[r][j] for j < width; weights == nullptr stands for ones.
  void (*add_weighted)(const T* panel, std::int64_t rows, const double* weights, std::int64_t width,
                       double* sums);
};

struct Table {
  const char* name;
  PanelKernels<float> narrow;
  PanelKernels<double> wide;

  // out[j] = mean over rows start <= r < stop of x[r][j]; returns false if any is not finite.
  bool (*pool_row)(RowView x, std::int64_t row_stride, std::int64_t start, std::int64_t stop,
                   std::int64_t columns, void* out);
};

// The widest set that this machine runs.
const Table& active();

}  // namespace bertft::isa
