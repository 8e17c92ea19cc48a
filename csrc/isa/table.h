// The inner loops, compiled once per instruction set, behind one table of pointers.
//
// Panels: packed rows keep their columns in panels of `panel_width` columns, each panel row-major
// (rows x panel_width), so that the same panel serves as either operand of a product. Columns past
// the last one are zero.
#pragma once

#include <cstdint>

#include "kernels/dtypes.h"

namespace bertft::isa {

// No panel of any set is wider.
constexpr std::int64_t kWidestPanel = 48;

enum class RowMap { kRaw, kUnit, kCenteredUnit };

// One row in memory: `stride` in elements.
struct RowView {
  const void* address;
  DType dtype;
  std::int64_t stride;
};

// The norm of a row, and mapped(x) = (x - mean) * power * scale, where scale is 0 for a row without
// direction and power is 1 unless squares of the row leave the range of float64.
struct RowSize {
  double norm;
  bool is_finite;
  double mean, power, scale;
};

template <class T>
struct PanelKernels {
  std::int64_t panel_width;
  std::int64_t tile_height;  // divides panel_width

  // out[j] = x[j], exactly.
  void (*widen)(RowView x, std::int64_t columns, T* out);

  RowSize (*size_of_row)(const T* x, std::int64_t columns, RowMap map);

  // Packs `count` rows, `stride` elements apart, as rows `first`... of panels of `rows` rows:
  // z = mapped(x) - origin, rounded to T, by the sizes of the rows; or, where sizes is nullptr and
  // T holds the origin exactly, z = x - origin.
  // norms[i] = sum_j z_ij^2; totals[j] += sum_i z_ij.
  void (*pack_rows)(const T* x, std::int64_t stride, std::int64_t count, std::int64_t columns,
                    const double* origin, const RowSize* sizes, std::int64_t first,
                    std::int64_t rows, T* panels, double* norms, double* totals);

  // product[i * stride + j] += sum_r a[r][first + i] * b[r][j] for i < height, j < width, and
  // only j >= i + skew where the tile crosses the diagonal of a symmetric product.
  void (*add_product)(const T* a, const T* b, std::int64_t rows, std::int64_t first,
                      std::int64_t height, std::int64_t width, std::int64_t skew, double* product,
                      std::int64_t stride);

  // sums[j] += sum_r weights[r] * panel[r][j] for j < width.
  void (*add_weighted)(const T* panel, std::int64_t rows, const double* weights, std::int64_t width,
                       double* sums);

  // |x - y|.
  double (*distance)(const T* x, const T* y, std::int64_t columns);
};

struct Table {
  const char* name;
  PanelKernels<float> narrow;
  PanelKernels<double> wide;

  // out[j] = mean over rows start <= r < stop of x[r][j]; returns false if any is not finite.
  bool (*pool_row)(RowView x, std::int64_t row_stride, std::int64_t start, std::int64_t stop,
                   std::int64_t columns, void* out);
};

// The set that the kernels run on: the widest that this machine has, unless `select` chose one.
const Table& active();

// Names of the sets that this machine runs, the widest first; null-terminated.
const char* const* available();

// Makes a set the active one; false if this machine does not run it. Not while kernels run.
bool select(const char* name);

}  // namespace bertft::isa
