// Rows of a sentence, projected by a structural probe, to the gradient of what the probe loses.
#pragma once

#include "isa/losses.h"
#include "isa/table.h"
#include "isa/tiles.h"

namespace bertft::isa {
namespace {

// out (height, columns) = a (height, depth) times packed panels of b, `panel` elements apart.
inline void multiply_panels(const float* a, std::int64_t a_row, std::int64_t height,
                            std::int64_t depth, const float* b, std::int64_t panel,
                            std::int64_t columns, float* out, std::int64_t out_row) {
  constexpr std::int64_t kWidth = kPanelWidth<float>;
  for (std::int64_t j = 0; j < columns; j += kWidth, b += panel) {
    for (std::int64_t i = 0; i < height; i += kTileHeight) {
      multiply_tile<float>({a + i * a_row, a_row, 1, b, kWidth, depth,
                            smaller(kTileHeight, height - i), smaller(kWidth, columns - j), false,
                            out + i * out_row + j, out_row});
    }
  }
}

// Takes the first row off all: distances stay as they are, and keep their digits where rows have a
// large part in common.
inline void shift(const Projected& x) {
  for (std::int64_t j = 0; j < x.rank; j += kLanes) {
    const std::int64_t some = smaller(kLanes, x.rank - j);
    const Floats first = load_some(x.rows + j, some, 0.0f);
    for (std::int64_t i = 0; i < x.words; ++i) {
      float* at = x.rows + i * x.row + j;
      store_some(at, load_some(at, some, 0.0f) - first, some);
    }
  }
}

// 1, 0 or -1; 0 for NaN.
inline Floats sign(Floats x) {
  const Floats one = Floats{} + 1.0f;
  return x > 0.0f ? one : (x < 0.0f ? -one : Floats{});
}

// Products of a row with all rows become -scale times the signs of its errors; adds their sizes to
// `lost`, and returns the sum of the signs.
inline float compare(float* products, const float* squares, float square, const float* gold,
                     std::int64_t words, float scale, double& lost) {
  Floats signs = {};
  Wide errors = {};
  for (std::int64_t j = 0; j < words; j += kLanes) {
    const std::int64_t some = smaller(kLanes, words - j);
    const Floats both = load_some(squares + j, some, -square) + square;
    const Floats error =
        both - 2.0f * load_some(products + j, some, 0.0f) - load_some(gold + j, some, 0.0f);
    const Floats of_error = sign(error), size = error < 0.0f ? -error : error;
    errors += low_half(size) + high_half(size);
    signs += of_error;
    store_some(products + j, -scale * of_error, some);
  }
  lost += sum_of_lanes(errors);
  float sum = 0.0f;
  for (std::int64_t j = 0; j < kLanes; ++j) sum += signs[j];
  return sum;
}

// |p_i - p_j|^2 = g_ii + g_jj - 2 g_ij with the products g of the rows p, and the gradient is a
// product as well: with the signs S of the errors, 4 / n^2 (diag(S 1) - S) p.
double distance_rows(const Projected& x, const float* gold, float* scratch) {
  constexpr std::int64_t kWidth = kPanelWidth<float>;
  const std::int64_t n = x.words;
  float* const products = scratch;
  float* const squares = products + n * n;
  float* const packed = squares + n;
  const float scale = 4.0f / (static_cast<float>(n) * static_cast<float>(n));
  shift(x);
  pack_into<float, kWidth>(x.rows, 1, x.row, x.rank, n, x.rank * kWidth, packed);
  multiply_panels(x.rows, x.row, n, x.rank, packed, x.rank * kWidth, n, products, n);
  for (std::int64_t i = 0; i < n; ++i) squares[i] = products[i * n + i];
  double lost = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    float* row = products + i * n;
    row[i] = scale * compare(row, squares, squares[i], gold + i * n, n, scale, lost);
  }
  pack_into<float, kWidth>(x.rows, x.row, 1, n, x.rank, n * kWidth, packed);
  multiply_panels(products, n, n, n, packed, n * kWidth, x.rank, x.rows, x.row);
  return lost / (static_cast<double>(n) * static_cast<double>(n));
}

// Floats that distance_rows needs as scratch.
std::int64_t distance_scratch(std::int64_t words, std::int64_t rank) {
  constexpr std::int64_t kWidth = kPanelWidth<float>;
  const std::int64_t across = (words + kWidth - 1) / kWidth * kWidth * rank;
  const std::int64_t down = (rank + kWidth - 1) / kWidth * kWidth * words;
  return words * words + words + (across > down ? across : down);
}

// | |p_i|^2 - depth_i | / n, and its gradient 2 / n sign p_i.
double depth_rows(const Projected& x, const float* gold) {
  const double share = 1.0 / static_cast<double>(x.words);
  double lost = 0.0;
  for (std::int64_t i = 0; i < x.words; ++i) {
    float* row = x.rows + i * x.row;
    const double error = sum_of(x.rank,
                                [row](std::int64_t j, auto shape) {
                                  const auto value = value_at(row + j, shape);
                                  return value * value;
                                }) -
                         static_cast<double>(gold[i]);
    lost += error < 0.0 ? -error : error;
    const float scale =
        static_cast<float>(2.0 * share) * static_cast<float>((error > 0.0) - (error < 0.0));
    for (std::int64_t j = 0; j < x.rank; j += kLanes) {
      const std::int64_t some = smaller(kLanes, x.rank - j);
      store_some(row + j, scale * load_some(row + j, some, 0.0f), some);
    }
  }
  return lost * share;
}

}  // namespace
}  // namespace bertft::isa
