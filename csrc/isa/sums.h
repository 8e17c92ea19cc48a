// Sums of a row, in float64.
#pragma once

#include "isa/lanes.h"

namespace bertft::isa {
namespace {

double sum_of_row(const float* x, std::int64_t count) {
  return sum_of(count, [x](std::int64_t j, auto kind) { return value_at(x + j, kind); });
}

double sum_of_squares(const float* x, std::int64_t count) {
  return sum_of(count, [x](std::int64_t j, auto kind) {
    const auto value = value_at(x + j, kind);
    return value * value;
  });
}

}  // namespace
}  // namespace bertft::isa
