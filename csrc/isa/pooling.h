// Means of runs of rows, widened.
#pragma once

#include "isa/lanes.h"
#include "isa/packing.h"
#include "isa/table.h"

namespace bertft::isa {
namespace {

// Tells whether all values that it has seen are finite: the difference of a number from itself is
// 0, of any other value NaN.
template <class T>
struct FiniteCheck {
  typename Vector<T>::type differences = {};
  bool is_finite = true;

  void see(typename Vector<T>::type values) { differences += values - values; }
  void see_one(T value) { is_finite &= isa::is_finite(value); }
  bool passed() const {
    bool passed = is_finite;
    for (std::int64_t i = 0; i < Vector<T>::kSize; ++i) passed &= differences[i] == T(0);
    return passed;
  }
};

// A single row is widened and copied.
template <class In, class Out>
bool copy_row(const In* x, std::int64_t columns, Out* out) {
  using vector = typename Vector<Out>::type;
  constexpr std::int64_t lanes = Vector<Out>::kSize;
  FiniteCheck<Out> check;
  std::int64_t j = 0;
  for (; j + lanes <= columns; j += lanes) {
    const vector row = values(x + j);
    *reinterpret_cast<vector*>(out + j) = row;
    check.see(row);
  }
  for (; j < columns; ++j) check.see_one(out[j] = static_cast<Out>(widen(x[j])));
  return check.passed();
}

// Sums in float64, divided and rounded once.
template <class In, class Out>
bool mean_of_rows(const In* x, std::int64_t row_stride, std::int64_t rows, std::int64_t columns,
                  Out* out) {
  using vector = typename Vector<Out>::type;
  constexpr std::int64_t lanes = Vector<Out>::kSize, wides = lanes / kWide, at_once = 4;
  const double count = static_cast<double>(rows);
  // The reciprocal of a power of two is exact, and a product takes a tenth of a division.
  const bool is_power = (rows & (rows - 1)) == 0;
  const double reciprocal = 1.0 / count;
  FiniteCheck<Out> check;
  std::int64_t j = 0;
  for (; j + at_once * lanes <= columns; j += at_once * lanes) {
    Wide sums[at_once * wides] = {};
    const In* row = x + j;
    for (std::int64_t r = 0; r < rows; ++r, row += row_stride) {
      vector pieces[at_once];
#pragma GCC unroll 4
      for (std::int64_t v = 0; v < at_once; ++v) pieces[v] = values(row + v * lanes);
#pragma GCC unroll 8
      for (std::int64_t u = 0; u < at_once * wides; ++u) {
        sums[u] += load(reinterpret_cast<const Out*>(pieces) + u * kWide);
      }
    }
#pragma GCC unroll 8
    for (std::int64_t u = 0; u < at_once * wides; ++u) {
      store(out + j + u * kWide, is_power ? sums[u] * reciprocal : sums[u] / count);
    }
#pragma GCC unroll 4
    for (std::int64_t v = 0; v < at_once; ++v) {
      check.see(*reinterpret_cast<const vector*>(out + j + v * lanes));
    }
  }
  for (; j < columns; ++j) {
    double sum = 0.0;
    for (std::int64_t r = 0; r < rows; ++r) sum += widen(x[r * row_stride + j]);
    check.see_one(out[j] = static_cast<Out>(sum / count));
  }
  return check.passed();
}

template <class In, class Out>
bool mean_of_strided_rows(const In* x, std::int64_t row_stride, std::int64_t stride,
                          std::int64_t rows, std::int64_t columns, Out* out) {
  FiniteCheck<Out> check;
  for (std::int64_t j = 0; j < columns; ++j) {
    double sum = 0.0;
    for (std::int64_t r = 0; r < rows; ++r) sum += widen(x[r * row_stride + j * stride]);
    check.see_one(out[j] = static_cast<Out>(sum / static_cast<double>(rows)));
  }
  return check.passed();
}

template <class In, class Out>
bool pool_row(const In* x, std::int64_t row_stride, std::int64_t stride, std::int64_t start,
              std::int64_t stop, std::int64_t columns, Out* out) {
  const std::int64_t rows = stop - start;
  x += start * row_stride;
  if (stride != 1) return mean_of_strided_rows(x, row_stride, stride, rows, columns, out);
  if (rows == 1) return copy_row(x, columns, out);
  return mean_of_rows(x, row_stride, rows, columns, out);
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
    case DType::kUInt8:
      break;
  }
  __builtin_unreachable();
}

}  // namespace
}  // namespace bertft::isa
