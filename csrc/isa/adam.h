// A row of weights, its moments and its gradient: one step of Adam.
#pragma once

#include "isa/lanes.h"
#include "isa/table.h"

namespace bertft::isa {
namespace {

inline Floats square_root(Floats x) {
#if BERTFT_VECTOR_BYTES == 64
  return _mm512_sqrt_ps(x);
#elif BERTFT_VECTOR_BYTES == 32
  return _mm256_sqrt_ps(x);
#else
  Floats root;
  for (std::int64_t j = 0; j < Vector<float>::kSize; ++j) root[j] = __builtin_sqrtf(x[j]);
  return root;
#endif
}

struct AdamLanes {
  Floats weights, first, second, largest;
};

inline AdamLanes stepped(AdamLanes x, Floats gradients, bool has_largest, const AdamStep& step) {
  gradients *= step.scale;
  x.first += (gradients - x.first) * step.toward_gradient;
  x.second = x.second * step.of_second + gradients * gradients * step.of_square;
  x.largest = has_largest ? (x.largest > x.second ? x.largest : x.second) : x.second;
  const Floats root = square_root(x.largest) * step.inverse_root + step.epsilon;
  x.weights = x.weights * step.kept - x.first / root * step.size;
  return x;
}

template <bool kHasLargest>
void adam_columns(const AdamRow& row, std::int64_t columns, const AdamStep& step) {
  constexpr std::int64_t lanes = Vector<float>::kSize;
  std::int64_t j = 0;
  for (; j + lanes <= columns; j += lanes) {
    AdamLanes x = {floats(row.weights + j), floats(row.first + j), floats(row.second + j), {}};
    if (kHasLargest) x.largest = floats(row.largest + j);
    x = stepped(x, floats(row.gradients + j), kHasLargest, step);
    *reinterpret_cast<Floats*>(row.weights + j) = x.weights;
    *reinterpret_cast<Floats*>(row.first + j) = x.first;
    *reinterpret_cast<Floats*>(row.second + j) = x.second;
    if (kHasLargest) *reinterpret_cast<Floats*>(row.largest + j) = x.largest;
  }
  if (const std::int64_t rest = columns - j; rest > 0) {
    const auto some = [&](const float* from) { return load_some(from + j, rest, 0.0f); };
    AdamLanes x = {some(row.weights), some(row.first), some(row.second), {}};
    if (kHasLargest) x.largest = some(row.largest);
    x = stepped(x, some(row.gradients), kHasLargest, step);
    store_some(row.weights + j, x.weights, rest);
    store_some(row.first + j, x.first, rest);
    store_some(row.second + j, x.second, rest);
    if (kHasLargest) store_some(row.largest + j, x.largest, rest);
  }
}

void adam_row(const AdamRow& row, std::int64_t columns, const AdamStep& step) {
  if (row.largest != nullptr) return adam_columns<true>(row, columns, step);
  adam_columns<false>(row, columns, step);
}

}  // namespace
}  // namespace bertft::isa
