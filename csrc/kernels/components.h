// Sides of one call that have to do with each other.
#pragma once

#include "kernels/cross_moments.h"

namespace bertft {

// Sides that no pair joins have nothing to do with each other: each such group in turn, so that
// only its rows are packed at a time.
struct Component {
  Moments moments;
  std::vector<std::int64_t> sides;  // their numbers in the whole
};

std::vector<Component> components(const Moments& moments);

}  // namespace bertft
