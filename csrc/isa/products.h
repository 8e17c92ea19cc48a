// Products of panels: register tiles in the rows' type over short runs, float64 between runs.
#pragma once

#include "isa/lanes.h"

namespace bertft::isa {
namespace {

// Rows of a float32 accumulation; longer blocks add up in float64 between such runs.
constexpr std::int64_t kDepth = 128;

// A register tile of kTileHeight x kVectors accumulators over `depth` rows; with three vectors of
// b and one broadcast element of a it fills the register file (AVX-512: 28 of 32; AVX2: 16 of 16).
template <class T, std::int64_t kVectors>
inline __attribute__((always_inline)) void multiply_run(
    const T* a, const T* b, std::int64_t depth,
    typename Vector<T>::type (&sums)[kTileHeight][kVectors]) {
  using vector = typename Vector<T>::type;
  constexpr std::int64_t lanes = Vector<T>::kSize;
  for (std::int64_t i = 0; i < kTileHeight; ++i) {
    for (std::int64_t v = 0; v < kVectors; ++v) sums[i][v] = vector{};
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    vector of_b[kVectors];
#pragma GCC unroll 3
    for (std::int64_t v = 0; v < kVectors; ++v) {
      of_b[v] = *reinterpret_cast<const vector*>(b + v * lanes);
    }
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < kTileHeight; ++i) {
#pragma GCC unroll 3
      for (std::int64_t v = 0; v < kVectors; ++v) sums[i][v] += a[i] * of_b[v];
    }
    a += kPanelWidth<T>;
    b += kPanelWidth<T>;
  }
}

template <class T, std::int64_t kVectors>
void add_tile(const T* a, const T* b, std::int64_t rows, std::int64_t height, std::int64_t width,
              std::int64_t skew, double* product, std::int64_t stride) {
  using vector = typename Vector<T>::type;
  constexpr std::int64_t lanes = Vector<T>::kSize, whole = kVectors * lanes;
  const bool is_whole = height == kTileHeight && width == whole && skew <= 1 - kTileHeight;
  for (std::int64_t start = 0; start < rows; start += kDepth) {
    vector sums[kTileHeight][kVectors];
    multiply_run<T, kVectors>(a + start * kPanelWidth<T>, b + start * kPanelWidth<T>,
                              smaller(kDepth, rows - start), sums);
    T tile[kTileHeight][whole];
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < kTileHeight; ++i) {
#pragma GCC unroll 3
      for (std::int64_t v = 0; v < kVectors; ++v) {
        *reinterpret_cast<vector*>(&tile[i][v * lanes]) = sums[i][v];
      }
    }
    for (std::int64_t i = 0; i < height; ++i) {
      double* out = product + i * stride;
      if (is_whole) {
#pragma GCC unroll 12
        for (std::int64_t j = 0; j < whole; j += kWide) {
          store(out + j, load(out + j) + load(&tile[i][j]));
        }
      } else {
        for (std::int64_t j = i + skew > 0 ? i + skew : 0; j < width; ++j) {
          out[j] += static_cast<double>(tile[i][j]);
        }
      }
    }
  }
}

template <class T>
void add_product(const T* a, const T* b, std::int64_t rows, std::int64_t first, std::int64_t height,
                 std::int64_t width, std::int64_t skew, double* product, std::int64_t stride) {
  constexpr std::int64_t lanes = Vector<T>::kSize;
  // Vectors that lie below the diagonal, or past the last column, are not computed.
  const std::int64_t skipped = skew > 0 ? skew / lanes : 0;
  const std::int64_t vectors = (width + lanes - 1) / lanes - skipped;
  a += first;
  b += skipped * lanes;
  product += skipped * lanes;
  width -= skipped * lanes;
  skew -= skipped * lanes;
  if (vectors == 3) add_tile<T, 3>(a, b, rows, height, width, skew, product, stride);
  if (vectors == 2) add_tile<T, 2>(a, b, rows, height, width, skew, product, stride);
  if (vectors == 1) add_tile<T, 1>(a, b, rows, height, width, skew, product, stride);
}

template <class T>
void add_weighted(const T* panel, std::int64_t rows, const double* weights, std::int64_t width,
                  double* sums) {
  double lanes[kPanelWidth<T>] = {};
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* row = panel + r * kPanelWidth<T>;
    for (std::int64_t j = 0; j < kPanelWidth<T>; ++j) {
      lanes[j] += weights[r] * static_cast<double>(row[j]);
    }
  }
  for (std::int64_t j = 0; j < width; ++j) sums[j] += lanes[j];
}

}  // namespace
}  // namespace bertft::isa
