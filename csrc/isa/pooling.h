// Means of runs of rows, widened.
#pragma once

#include "isa/lanes.h"
#include "isa/table.h"

namespace bertft::isa {
namespace {

// Means are formed in float64 and rounded once; a single row is widened and copied.
template <class T, class Out>
bool pool_row(const T* x, std::int64_t row_stride, std::int64_t stride, std::int64_t start,
              std::int64_t stop, std::int64_t columns, Out* out) {
  constexpr std::int64_t chunk = 64;
  const double count = static_cast<double>(stop - start);
  unsigned bad = 0;
  for (std::int64_t first = 0; first < columns; first += chunk) {
    const std::int64_t width = columns - first < chunk ? columns - first : chunk;
    const T* from = x + start * row_stride + first * stride;
    if (stop - start == 1 && stride == 1) {
      for (std::int64_t j = 0; j < width; ++j) out[first + j] = static_cast<Out>(widen(from[j]));
    } else {
      double sums[chunk] = {};
      for (std::int64_t r = start; r < stop; ++r, from += row_stride) {
        for (std::int64_t j = 0; j < width; ++j) sums[j] += widen(from[j * stride]);
      }
      for (std::int64_t j = 0; j < width; ++j) out[first + j] = static_cast<Out>(sums[j] / count);
    }
    for (std::int64_t j = 0; j < width; ++j) bad |= is_finite(out[first + j]) ? 0u : 1u;
  }
  return bad == 0;
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
