// Hidden units of many probes: tanh, layer normalization and dropout in one pass, and their
// gradients.
#pragma once

#include <cstdint>

#include "isa/table.h"

namespace bertft {

// Contiguous (rows, probes, width), and parameters (probes, width). Units are kept where `kept`,
// like the units, is 1, or all where it is nullptr, and then multiplied by `scale`.
struct HiddenUnits {
  std::int64_t rows, probes, width;
  const float *bias, *gain, *shift;
  float epsilon;
  const std::uint8_t* kept;
  float scale;
};

// x becomes h = tanh(x + bias), and out = (gain (h - mean) / sqrt(variance + epsilon) + shift)
// scale or 0, with the moments of each row's h. Neither the number of threads nor other probes
// change a bit. O(rows x probes x width).
void tanh_norm(const HiddenUnits& units, float* x, float* out, int threads);

// gradient, that of out, becomes that of x; those of the parameters (probes, width) are written.
// Throws std::bad_alloc.
void tanh_norm_gradient(const HiddenUnits& units, const float* hidden, float* gradient,
                        const isa::HiddenSums& sums, int threads);

}  // namespace bertft
