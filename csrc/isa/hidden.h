// Hidden units: tanh, layer normalization and dropout of a row, and their gradients.
#pragma once

#include "isa/losses.h"
#include "isa/table.h"

namespace bertft::isa {
namespace {

// tanh(x) to a relative 3e-7: Cephes' polynomial near 0, where 1 - exp(-2 |x|) loses its digits.
inline Floats hyperbolic_tangent(Floats x) {
  const Floats size = x < 0.0f ? -x : x, e = exponential(-2.0f * size);
  const Floats far = (1.0f - e) / (1.0f + e), square = x * x;
  Floats p = square * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const Floats near = p * square * x + x;
  // NaN is in no comparison: it stays in `far`.
  return size < 0.625f ? near : (x < 0.0f ? -far : far);
}

// `scale` for units that are kept, else 0.
inline Floats factors_from(const Dropout& dropout, std::int64_t j, std::int64_t count) {
  const Floats scale = Floats{} + dropout.scale;
  if (dropout.kept == nullptr) return scale;
  return labels_from(dropout.kept + j, count) == 1 ? scale : Floats{};
}

struct RowMoments {
  float mean, inverse;  // 1 / sqrt(variance + epsilon)
};

inline RowMoments moments_of(const float* x, std::int64_t width, float epsilon) {
  Floats sums = {}, squares = {};
  for_each_vector(width,
                  [&](std::int64_t j, std::int64_t some) { sums += load_some(x + j, some, 0.0f); });
  const float mean = total_of(sums) / static_cast<float>(width);
  for_each_vector(width, [&](std::int64_t j, std::int64_t some) {
    const Floats rest = load_some(x + j, some, mean) - mean;
    squares += rest * rest;
  });
  const float variance = total_of(squares) / static_cast<float>(width);
  return {mean, 1.0f / __builtin_sqrtf(variance + epsilon)};
}

void tanh_norm_row(const HiddenLayer& layer, const Dropout& dropout, float* x, float* out) {
  for_each_vector(layer.width, [&](std::int64_t j, std::int64_t some) {
    const Floats sum = load_some(x + j, some, 0.0f) + load_some(layer.bias + j, some, 0.0f);
    store_some(x + j, hyperbolic_tangent(sum), some);
  });
  const RowMoments moments = moments_of(x, layer.width, layer.epsilon);
  for_each_vector(layer.width, [&](std::int64_t j, std::int64_t some) {
    const Floats unit = (load_some(x + j, some, 0.0f) - moments.mean) * moments.inverse;
    const Floats y =
        unit * load_some(layer.gain + j, some, 0.0f) + load_some(layer.shift + j, some, 0.0f);
    store_some(out + j, y * factors_from(dropout, j, some), some);
  });
}

void tanh_norm_row_gradient(const HiddenLayer& layer, const Dropout& dropout, const float* hidden,
                            float* gradient, const HiddenSums& sums) {
  const RowMoments moments = moments_of(hidden, layer.width, layer.epsilon);
  const auto unit_at = [&](std::int64_t j, std::int64_t some) {
    return (load_some(hidden + j, some, moments.mean) - moments.mean) * moments.inverse;
  };
  const auto add = [](float* sum, Floats values, std::int64_t some) {
    store_some(sum, load_some(sum, some, 0.0f) + values, some);
  };
  Floats totals = {}, along = {};
  for_each_vector(layer.width, [&](std::int64_t j, std::int64_t some) {
    const Floats unit = unit_at(j, some);
    const Floats of_y = load_some(gradient + j, some, 0.0f) * factors_from(dropout, j, some);
    add(sums.gain + j, of_y * unit, some);
    add(sums.shift + j, of_y, some);
    const Floats of_unit = of_y * load_some(layer.gain + j, some, 0.0f);
    totals += of_unit;
    along += of_unit * unit;
    store_some(gradient + j, of_unit, some);
  });
  const float share = 1.0f / static_cast<float>(layer.width);
  const float mean = total_of(totals) * share, slope = total_of(along) * share;
  for_each_vector(layer.width, [&](std::int64_t j, std::int64_t some) {
    const Floats h = load_some(hidden + j, some, 0.0f), unit = unit_at(j, some);
    const Floats of_hidden =
        (load_some(gradient + j, some, 0.0f) - mean - unit * slope) * moments.inverse;
    const Floats of_sum = of_hidden * (1.0f - h * h);
    add(sums.bias + j, of_sum, some);
    store_some(gradient + j, of_sum, some);
  });
}

}  // namespace
}  // namespace bertft::isa
