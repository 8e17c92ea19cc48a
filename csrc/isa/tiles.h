// Products of matrices in tiles of registers, and the panels that they read.
#pragma once

#include "isa/lanes.h"
#include "isa/table.h"

namespace bertft::isa {
namespace {

// kHeight x kVectors accumulators; AVX-512 has room for 8 x 3 of them, three vectors of b and a
// broadcast element of a in 28 of 32 registers, AVX2 for 4 x 3 in 16 of 16.
template <class T, std::int64_t kHeight, std::int64_t kVectors>
void multiply_whole(const ProductTile<T>& tile) {
  using vector = typename Vector<T>::type;
  constexpr std::int64_t lanes = Vector<T>::kSize;
  vector sums[kHeight][kVectors];
#pragma GCC unroll 8
  for (std::int64_t i = 0; i < kHeight; ++i) {
#pragma GCC unroll 3
    for (std::int64_t v = 0; v < kVectors; ++v) sums[i][v] = vector{};
  }
  const T* a = tile.a;
  const T* b = tile.b;
  const std::int64_t row = tile.a_row, a_step = tile.a_step, b_step = tile.b_step;
  for (std::int64_t k = tile.depth; k > 0; --k) {
    vector of_b[kVectors];
#pragma GCC unroll 3
    for (std::int64_t v = 0; v < kVectors; ++v) {
      of_b[v] = *reinterpret_cast<const vector*>(b + v * lanes);
    }
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < kHeight; ++i) {
      const T of_a = a[i * row];
#pragma GCC unroll 3
      for (std::int64_t v = 0; v < kVectors; ++v) sums[i][v] += of_a * of_b[v];
    }
    a += a_step;
    b += b_step;
  }
  const std::int64_t last = tile.width - (kVectors - 1) * lanes;
#pragma GCC unroll 8
  for (std::int64_t i = 0; i < kHeight; ++i) {
    T* out = tile.out + i * tile.out_row;
#pragma GCC unroll 3
    for (std::int64_t v = 0; v < kVectors; ++v) {
      T* at = out + v * lanes;
      const bool is_whole = v + 1 < kVectors || last == lanes;
      vector sum = sums[i][v];
      if (tile.is_added) sum += is_whole ? values(at) : load_some(at, last, T(0));
      if (is_whole) {
        *reinterpret_cast<vector*>(at) = sum;
      } else {
        store_some(at, sum, last);
      }
    }
  }
}

template <class T, std::int64_t kHeight>
void multiply_rows(const ProductTile<T>& tile) {
  const std::int64_t vectors = (tile.width + Vector<T>::kSize - 1) / Vector<T>::kSize;
  if (vectors == 3) return multiply_whole<T, kHeight, 3>(tile);
  if (vectors == 2) return multiply_whole<T, kHeight, 2>(tile);
  return multiply_whole<T, kHeight, 1>(tile);
}

template <class T, std::int64_t kHeight = kTileHeight>
void multiply_some_rows(const ProductTile<T>& tile) {
  if (tile.height == kHeight) return multiply_rows<T, kHeight>(tile);
  if constexpr (kHeight > 1) return multiply_some_rows<T, kHeight - 1>(tile);
}

template <class T>
void multiply_tile(const ProductTile<T>& tile) {
  multiply_some_rows<T>(tile);
}

// Rows to columns of a square of registers: as often as it can be halved, row i and the row that is
// half the square below it are interleaved, to rows 2 i and 2 i + 1.
template <class T>
inline __attribute__((always_inline)) void transpose(
    typename Vector<T>::type (&square)[Vector<T>::kSize]) {
  using vector = typename Vector<T>::type;
  typedef decltype(vector{} < vector{}) Mask;
  constexpr std::int64_t lanes = Vector<T>::kSize;
  Mask low, high;
#pragma GCC unroll 16
  for (std::int64_t j = 0; j < lanes; ++j) {
    low[j] = j / 2 + j % 2 * lanes;
    high[j] = low[j] + lanes / 2;
  }
#pragma GCC unroll 4
  for (std::int64_t halves = 1; halves < lanes; halves *= 2) {
    vector mixed[lanes];
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < lanes / 2; ++i) {
      mixed[2 * i] = __builtin_shuffle(square[i], square[i + lanes / 2], low);
      mixed[2 * i + 1] = __builtin_shuffle(square[i], square[i + lanes / 2], high);
    }
#pragma GCC unroll 16
    for (std::int64_t i = 0; i < lanes; ++i) square[i] = mixed[i];
  }
}

// Columns that lie one after the other in memory, in squares.
template <class T, std::int64_t kWidth>
void pack_from_columns(const T* x, std::int64_t along, std::int64_t depth, std::int64_t width,
                       T* panel) {
  using vector = typename Vector<T>::type;
  constexpr std::int64_t lanes = Vector<T>::kSize;
  for (std::int64_t k = 0; k < depth; k += lanes) {
    const std::int64_t some = smaller(lanes, depth - k);
    for (std::int64_t j = 0; j < width; j += lanes) {
      vector square[lanes];
      if (some == lanes && j + lanes <= width) {
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < lanes; ++i) {
          square[i] = *reinterpret_cast<const vector*>(x + (j + i) * along + k);
        }
      } else {
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < lanes; ++i) {
          square[i] = j + i >= width  ? vector{}
                      : some == lanes ? *reinterpret_cast<const vector*>(x + (j + i) * along + k)
                                      : load_some(x + (j + i) * along + k, some, T(0));
        }
      }
      transpose<T>(square);
      if (some == lanes) {
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < lanes; ++i) {
          *reinterpret_cast<vector*>(panel + (k + i) * kWidth + j) = square[i];
        }
      } else {
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < lanes; ++i) {
          if (i < some) *reinterpret_cast<vector*>(panel + (k + i) * kWidth + j) = square[i];
        }
      }
    }
  }
}

// Columns of a panel that are read for `width` of them: whole vectors.
template <class T, std::int64_t kWidth>
inline std::int64_t whole_lanes(std::int64_t width) {
  constexpr std::int64_t lanes = Vector<T>::kSize;
  return kWidth % lanes == 0 ? (width + lanes - 1) / lanes * lanes : width;
}

// Rows in the order in which they lie, whole and part panels of them.
template <class T, std::int64_t kWidth>
void pack_from_rows(const T* x, std::int64_t step, std::int64_t depth, std::int64_t columns,
                    std::int64_t panel, T* out) {
  for (std::int64_t k = 0; k < depth; ++k, x += step, out += kWidth) {
    T* to = out;
    std::int64_t j = 0;
    for (; j + kWidth <= columns; j += kWidth, to += panel) {
      __builtin_memcpy(to, x + j, kWidth * sizeof(T));
    }
    if (j == columns) continue;
    const std::int64_t rest = columns - j, used = whole_lanes<T, kWidth>(rest);
    for (std::int64_t i = 0; i < used; ++i) to[i] = i < rest ? x[j + i] : T(0);
  }
}

template <class T, std::int64_t kWidth>
void pack_into(const T* x, std::int64_t step, std::int64_t along, std::int64_t depth,
               std::int64_t columns, std::int64_t panel, T* out) {
  if (along == 1) return pack_from_rows<T, kWidth>(x, step, depth, columns, panel, out);
  for (std::int64_t j = 0; j < columns; j += kWidth, x += kWidth * along, out += panel) {
    const std::int64_t width = smaller(kWidth, columns - j);
    if constexpr (kWidth % Vector<T>::kSize == 0) {
      if (step == 1) {
        pack_from_columns<T, kWidth>(x, along, depth, width, out);
        continue;
      }
    }
    const std::int64_t used = whole_lanes<T, kWidth>(width);
    for (std::int64_t k = 0; k < depth; ++k) {
      T* row = out + k * kWidth;
      for (std::int64_t i = 0; i < used; ++i) row[i] = i < width ? x[k * step + i * along] : T(0);
    }
  }
}

}  // namespace
}  // namespace bertft::isa
