// Means of rows by self-attention inside spans, and their gradients.
#pragma once

#include "isa/losses.h"
#include "isa/table.h"

namespace bertft::isa {
namespace {

inline float dot(const float* x, const float* y, std::int64_t columns) {
  Floats sum = {};
  for_each_vector(columns, [&](std::int64_t j, std::int64_t some) {
    sum += load_some(x + j, some, 0.0f) * load_some(y + j, some, 0.0f);
  });
  return total_of(sum);
}

Softmax attend_span(const SpanRows& x, const float* weight, float* shares, float* out) {
  Softmax softmax = {-__builtin_inff(), 0.0f};
  for (std::int64_t i = 0; i < x.count; ++i) {
    shares[i] = dot(x.rows + i * x.row, weight, x.columns);
    softmax.largest = shares[i] > softmax.largest ? shares[i] : softmax.largest;
  }
  Floats totals = {};
  for_each_vector(x.count, [&](std::int64_t i, std::int64_t some) {
    const Floats e = exponential(load_some(shares + i, some, -__builtin_inff()) - softmax.largest);
    totals += e;
    store_some(shares + i, e, some);
  });
  softmax.total = total_of(totals);
  const float inverse = 1.0f / softmax.total;
  for_each_vector(x.columns, [&](std::int64_t j, std::int64_t some) {
    Floats mean = {};
    for (std::int64_t i = 0; i < x.count; ++i) {
      mean += shares[i] * load_some(x.rows + i * x.row + j, some, 0.0f);
    }
    store_some(out + j, mean * inverse, some);
  });
  return softmax;
}

void slopes_of_span(const SpanRows& x, const float* weight, float logsum, const float* mean,
                    const float* of_mean, float* shares, float* slopes) {
  const float of_all = dot(mean, of_mean, x.columns);
  for (std::int64_t i = 0; i < x.count; ++i) {
    const float* row = x.rows + i * x.row;
    // Rounding may leave a logit above the sum's.
    const float logit = dot(row, weight, x.columns) - logsum;
    shares[i] = exponential(Floats{} + (logit > 0.0f ? 0.0f : logit))[0];
    slopes[i] = shares[i] * (dot(row, of_mean, x.columns) - of_all);
  }
}

void add_span_gradient(const SpanRows& x, const float* weight, const float* of_mean,
                       const float* shares, const float* slopes, float* of_rows, float* of_weight) {
  for_each_vector(x.columns, [&](std::int64_t j, std::int64_t some) {
    const Floats w = load_some(weight + j, some, 0.0f), g = load_some(of_mean + j, some, 0.0f);
    Floats of_w = load_some(of_weight + j, some, 0.0f);
    for (std::int64_t i = 0; i < x.count; ++i) {
      float* at = of_rows + i * x.row + j;
      store_some(at, load_some(at, some, 0.0f) + shares[i] * g + slopes[i] * w, some);
      of_w += slopes[i] * load_some(x.rows + i * x.row + j, some, 0.0f);
    }
    store_some(of_weight + j, of_w, some);
  });
}

}  // namespace
}  // namespace bertft::isa
