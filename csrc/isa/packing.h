// Rows into panels: widen, map, shift, round; with their norms and totals.
#pragma once

#include "isa/lanes.h"
#include "isa/table.h"

namespace bertft::isa {
namespace {

template <class In, class T>
void widen_from(const In* x, std::int64_t stride, std::int64_t columns, T* out) {
  for (std::int64_t j = 0; j < columns; ++j) out[j] = static_cast<T>(widen(x[j * stride]));
}

template <class T>
void widen_row(RowView x, std::int64_t columns, T* out) {
  switch (x.dtype) {
    case DType::kFloat64:
      return widen_from(static_cast<const double*>(x.address), x.stride, columns, out);
    case DType::kFloat32:
      return widen_from(static_cast<const float*>(x.address), x.stride, columns, out);
    case DType::kFloat16:
      return widen_from(static_cast<const Half*>(x.address), x.stride, columns, out);
    case DType::kBFloat16:
      return widen_from(static_cast<const BFloat*>(x.address), x.stride, columns, out);
    case DType::kInt64:
    case DType::kUInt8:
      __builtin_unreachable();
  }
}

// |x - mean| = root / power: rows whose squares leave the range of float64 are scaled first.
struct Root {
  double root, power;
};

template <class T>
Root root_of(const T* x, std::int64_t columns, double mean) {
  const auto squares = [&](double power) {
    return sum_of(columns, [&](std::int64_t j, auto kind) {
      const auto value = (value_at(x + j, kind) - mean) * power;
      return value * value;
    });
  };
  const double plain = squares(1.0);
  if (plain > 0x1.0p-900 && plain < 0x1.0p900) return {__builtin_sqrt(plain), 1.0};
  double largest = 0.0;
  for (std::int64_t j = 0; j < columns; ++j) {
    const double magnitude = __builtin_fabs(static_cast<double>(x[j]) - mean);
    if (!is_finite(magnitude)) return {magnitude, 1.0};
    largest = magnitude > largest ? magnitude : largest;
  }
  if (largest == 0.0) return {0.0, 1.0};
  int exponent = 0;
  __builtin_frexp(largest, &exponent);
  // Of the smallest subnormal rows the rest is left to the scale.
  const double power = __builtin_ldexp(1.0, exponent < -1000 ? 1000 : -exponent);
  return {__builtin_sqrt(squares(power)), power};
}

template <class T>
RowSize size_of_row(const T* x, std::int64_t columns, RowMap map) {
  const Root own = root_of(x, columns, 0.0);
  RowSize size = {own.root / own.power, is_finite(own.root), 0.0, 1.0, 1.0};
  if (!size.is_finite || map == RowMap::kRaw) return size;
  size.power = own.power;
  size.scale = 0.0;
  double root = own.root;
  if (map == RowMap::kCenteredUnit) {
    bool varies = false;
    for (std::int64_t j = 1; j < columns; ++j) varies |= x[j] != x[0];
    if (!varies) return size;
    size.mean = sum_of(columns, [x](std::int64_t j, auto kind) { return value_at(x + j, kind); }) /
                static_cast<double>(columns);
    const Root centered = root_of(x, columns, size.mean);
    root = centered.root;
    size.power = centered.power;
  }
  if (root > 0.0) size.scale = 1.0 / root;
  return size;
}

// One row of a panel: z = mapped(x) - origin in float64, rounded to T, and zeros past `width`;
// without a size z = x - origin in T, for origins that T holds exactly. kWidth is the width where
// it is known.
template <class T, bool kIsMapped, std::int64_t kWidth>
inline __attribute__((always_inline)) void pack_row(const T* x, std::int64_t width,
                                                    const double* origin, const T* narrow_origin,
                                                    const RowSize* size, T* out) {
  using vector = typename Vector<T>::type;
  constexpr std::int64_t whole = kPanelWidth<T>, lanes = Vector<T>::kSize;
  const std::int64_t known = kWidth > 0 ? kWidth : width;
  std::int64_t j = 0;
  if constexpr (kIsMapped) {
    const double power = sizeof(T) == sizeof(double) ? size->power : 1.0;
    const auto map = [&](auto value, auto of_origin) {
      return (value - size->mean) * power * size->scale - of_origin;
    };
#pragma GCC unroll 12
    for (; j + kWide <= known; j += kWide) store(out + j, map(load(x + j), load(origin + j)));
    for (; j < known; ++j) out[j] = static_cast<T>(map(static_cast<double>(x[j]), origin[j]));
  } else {
#pragma GCC unroll 3
    for (; j + lanes <= known; j += lanes) {
      *reinterpret_cast<vector*>(out + j) = *reinterpret_cast<const vector*>(x + j) -
                                            *reinterpret_cast<const vector*>(narrow_origin + j);
    }
    for (; j < known; ++j) out[j] = x[j] - narrow_origin[j];
  }
  for (; j < whole; ++j) out[j] = T(0);
}

// A panel of at most kRowsAtOnce rows. Values add up in T over these rows, squares in float64: RSA
// of squared distances is a small difference of what they add up to, and rounding them is no noise
// (rows about 1e4 lie on a grid where squares end in 0, 1 or 4 of 8 and are rounded down).
template <class T, bool kIsMapped, std::int64_t kWidth>
inline __attribute__((always_inline)) void pack_panel(const T* x, std::int64_t stride,
                                                      std::int64_t count, std::int64_t width,
                                                      const double* origin, const RowSize* sizes,
                                                      T* panel, Wide* norms, double* totals) {
  using vector = typename Vector<T>::type;
  constexpr std::int64_t whole = kPanelWidth<T>, lanes = Vector<T>::kSize;
  T narrow_origin[whole] = {};
  if (!kIsMapped) {
    for (std::int64_t j = 0; j < width; ++j) narrow_origin[j] = static_cast<T>(origin[j]);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    pack_row<T, kIsMapped, kWidth>(x + i * stride, width, origin, narrow_origin, sizes + i,
                                   panel + i * whole);
  }
  vector sums[kTileVectors] = {};
  for (std::int64_t i = 0; i < count; ++i) {
    const T* z = panel + i * whole;
#pragma GCC unroll 3
    for (std::int64_t v = 0; v < kTileVectors; ++v) {
      sums[v] += *reinterpret_cast<const vector*>(z + v * lanes);
    }
#pragma GCC unroll 6
    for (std::int64_t v = 0; v < whole / kWide; ++v) {
      const Wide value = load(z + v * kWide);
      norms[i] += value * value;
    }
  }
  const T* sum = reinterpret_cast<const T*>(sums);
  for (std::int64_t j = 0; j < width; ++j) totals[j] += static_cast<double>(sum[j]);
}

constexpr std::int64_t kRowsAtOnce = 8;

template <class T, bool kIsMapped>
void pack_some(const T* x, std::int64_t stride, std::int64_t count, std::int64_t columns,
               const double* origin, const RowSize* sizes, std::int64_t first, std::int64_t rows,
               T* panels, double* norms, double* totals) {
  constexpr std::int64_t whole = kPanelWidth<T>;
  Wide along[kRowsAtOnce] = {};
  std::int64_t start = 0;
  for (; start + whole <= columns; start += whole) {
    pack_panel<T, kIsMapped, whole>(x + start, stride, count, whole, origin + start, sizes,
                                    panels + start * rows + first * whole, along, totals + start);
  }
  if (start < columns) {
    pack_panel<T, kIsMapped, 0>(x + start, stride, count, columns - start, origin + start, sizes,
                                panels + start * rows + first * whole, along, totals + start);
  }
  for (std::int64_t i = 0; i < count; ++i) norms[i] = fold(along[i]);
}

template <class T>
void pack_rows(const T* x, std::int64_t stride, std::int64_t count, std::int64_t columns,
               const double* origin, const RowSize* sizes, std::int64_t first, std::int64_t rows,
               T* panels, double* norms, double* totals) {
  for (std::int64_t i = 0; i < count; i += kRowsAtOnce) {
    const std::int64_t some = smaller(kRowsAtOnce, count - i);
    if (sizes == nullptr) {
      pack_some<T, false>(x + i * stride, stride, some, columns, origin, nullptr, first + i, rows,
                          panels, norms + i, totals);
    } else {
      pack_some<T, true>(x + i * stride, stride, some, columns, origin, sizes + i, first + i, rows,
                         panels, norms + i, totals);
    }
  }
}

template <class T>
double distance(const T* x, const T* y, std::int64_t columns) {
  return __builtin_sqrt(sum_of(columns, [&](std::int64_t j, auto kind) {
    const auto difference = value_at(x + j, kind) - value_at(y + j, kind);
    return difference * difference;
  }));
}

}  // namespace
}  // namespace bertft::isa
