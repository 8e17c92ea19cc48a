// Means of runs of rows, widened.
#pragma once

#include "isa/lanes.h"
#include "isa/packing.h"
#include "isa/table.h"

namespace bertft::isa {
namespace {

// Columns at a time: their float64 sums stay in registers.
constexpr std::int64_t kColumns = 8 * kWide;

inline const float* widened(const float* x, std::int64_t stride, float*) {
  return stride == 1 ? x : nullptr;
}
inline const double* widened(const double* x, std::int64_t stride, double*) {
  return stride == 1 ? x : nullptr;
}
template <class In, class Out>
const Out* widened(const In*, std::int64_t, Out*) {
  return nullptr;
}

// kColumns columns of a run of several rows: sums in float64, divided and rounded once.
template <class In, class Out>
inline void pool_columns(const In* x, std::int64_t row_stride, std::int64_t stride,
                         std::int64_t rows, Out* out) {
  Wide sums[kColumns / kWide] = {};
  for (std::int64_t r = 0; r < rows; ++r, x += row_stride) {
    Out copy[kColumns];
    const Out* row = widened(x, stride, copy);
    if (row == nullptr) {
      widen_from(x, stride, kColumns, copy);
      row = copy;
    }
    for (std::int64_t u = 0; u < kColumns / kWide; ++u) sums[u] += load(row + u * kWide);
  }
  const double count = static_cast<double>(rows);
  // The reciprocal of a power of two is exact, and a product takes a tenth of a division.
  const bool is_power = (rows & (rows - 1)) == 0;
  for (std::int64_t u = 0; u < kColumns / kWide; ++u) {
    store(out + u * kWide, is_power ? sums[u] * (1.0 / count) : sums[u] / count);
  }
}

template <class In, class Out>
void pool_column(const In* x, std::int64_t row_stride, std::int64_t rows, Out* out) {
  double sum = 0.0;
  for (std::int64_t r = 0; r < rows; ++r) sum += widen(x[r * row_stride]);
  *out = static_cast<Out>(sum / static_cast<double>(rows));
}

template <class T>
bool all_finite(const T* x, std::int64_t columns) {
  // The difference of a number from itself is 0, of any other value NaN.
  using vector = typename Vector<T>::type;
  constexpr std::int64_t lanes = Vector<T>::kSize;
  vector sums[2] = {};
  std::int64_t j = 0;
  for (; j + 2 * lanes <= columns; j += 2 * lanes) {
    for (std::int64_t v = 0; v < 2; ++v) {
      const vector value = *reinterpret_cast<const vector*>(x + j + v * lanes);
      sums[v] += value - value;
    }
  }
  bool finite = true;
  for (std::int64_t i = 0; i < lanes; ++i) finite &= sums[0][i] == T(0) && sums[1][i] == T(0);
  for (; j < columns; ++j) finite &= is_finite(x[j]);
  return finite;
}

template <class In, class Out>
bool pool_row(const In* x, std::int64_t row_stride, std::int64_t stride, std::int64_t start,
              std::int64_t stop, std::int64_t columns, Out* out) {
  x += start * row_stride;
  if (stop - start == 1) {
    widen_from(x, stride, columns, out);
    return all_finite(out, columns);
  }
  std::int64_t j = 0;
  for (; j + kColumns <= columns; j += kColumns) {
    pool_columns(x + j * stride, row_stride, stride, stop - start, out + j);
  }
  for (; j < columns; ++j) pool_column(x + j * stride, row_stride, stop - start, out + j);
  return all_finite(out, columns);
}

bool pool_any_row(RowView x, std::int64_t row_stride, std::int64_t start, std::int64_t stop,
                  std::int64_t columns, void* out) {
  float* narrow = static_cast<float*>(out);
  switch (x.dtype) {
    case DType::kFloat64:
      return pool_row(static_cast<const double*>(x.address), row_stride, x.stride, start, stop,
                      columns, static_cast<double*>(out));
    case DType::kFloat32:
      return pool_row(static_cast<const float*>(x.address), row_stride, x.stride, start, stop,
                      columns, narrow);
    case DType::kFloat16:
      return pool_row(static_cast<const Half*>(x.address), row_stride, x.stride, start, stop,
                      columns, narrow);
    case DType::kBFloat16:
      return pool_row(static_cast<const BFloat*>(x.address), row_stride, x.stride, start, stop,
                      columns, narrow);
    case DType::kInt64:
      break;
  }
  __builtin_unreachable();
}

}  // namespace
}  // namespace bertft::isa
