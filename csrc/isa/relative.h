// Rows relative to the last one, and a last row that brings a sum to 0: labels that exclude each
// other are told apart by differences of logits, and their gradients sum to 0.
#pragma once

#include "isa/lanes.h"

namespace bertft::isa {
namespace {

void subtract_last(const float* x, std::int64_t count, std::int64_t columns, float* out) {
  const float* last = x + (count - 1) * columns;
  for_each_vector(columns, [&](std::int64_t j, std::int64_t some) {
    const Floats of_last = load_some(last + j, some, 0.0f);
    for (std::int64_t i = 0; i < count - 1; ++i) {
      store_some(out + i * columns + j, load_some(x + i * columns + j, some, 0.0f) - of_last, some);
    }
  });
}

void balance_last(float* x, std::int64_t count, std::int64_t row, std::int64_t columns) {
  for_each_vector(columns, [&](std::int64_t j, std::int64_t some) {
    Floats rest = {};
    for (std::int64_t i = 0; i < count - 1; ++i) rest -= load_some(x + i * row + j, some, 0.0f);
    store_some(x + (count - 1) * row + j, rest, some);
  });
}

}  // namespace
}  // namespace bertft::isa
