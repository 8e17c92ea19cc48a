// Self-attentive pooling of spans of rows, for many probes at once, and its gradient.
#pragma once

#include <cstdint>

namespace bertft {

// Contiguous rows (rows, probes, columns), weights (probes, columns), and spans of one row or more:
// those from starts[b] up to stops[b].
struct AttendedSpans {
  const float *x, *weight;
  std::int64_t rows, probes, columns;
  const std::int64_t *starts, *stops;
  std::int64_t spans;
};

// out (spans, probes, columns) = mean of the rows x of each span, weighted by the softmax over them
// of x . weight; logsums (spans, probes) = the log of the sum of its exponentials. exp is right to
// 1.2e-7. Neither the number of threads nor other probes change a bit. O(rows of all spans x probes
// x columns). Throws std::bad_alloc.
void attend_spans(const AttendedSpans& x, float* out, float* logsums, int threads);

// What `attend_spans` wrote, and its gradient.
struct SpanMeans {
  const float *out, *logsums, *of_out;
};

// of_x (rows, probes, columns) and of_weight (probes, columns) = the gradients of x and weight; 0
// for rows outside of all spans. As above.
void attend_spans_gradient(const AttendedSpans& x, const SpanMeans& means, float* of_x,
                           float* of_weight, int threads);

}  // namespace bertft
