#include "kernels/span_attention.h"

#include <algorithm>
#include <cmath>

#include "isa/table.h"
#include "kernels/panels.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

// Spans, and columns, of a task.
constexpr std::int64_t kSpans = 64, kColumns = 64;

isa::SpanRows rows_of(const AttendedSpans& x, std::int64_t b, std::int64_t k) {
  return {x.x + (x.starts[b] * x.probes + k) * x.columns, x.probes * x.columns,
          x.stops[b] - x.starts[b], x.columns};
}

// Calls visit(b, k, worker) for all spans and probes.
template <class Visit>
void for_each_span(const AttendedSpans& x, int threads, const Visit& visit) {
  parallel_for(x.probes * divide_up(x.spans, kSpans), threads, [&](std::int64_t task, int worker) {
    const std::int64_t first = task / x.probes * kSpans;
    for (std::int64_t b = first; b < std::min(x.spans, first + kSpans); ++b) {
      visit(b, task % x.probes, worker);
    }
  });
}

}  // namespace

void attend_spans(const AttendedSpans& x, float* out, float* logsums, int threads) {
  std::int64_t longest = 1;
  for (std::int64_t b = 0; b < x.spans; ++b) longest = std::max(longest, x.stops[b] - x.starts[b]);
  // Whole cache lines for each thread, so that no other thread writes to them.
  const std::int64_t scratch = divide_up(longest, 16) * 16;
  Workspace workspace;
  const std::size_t of_shares = workspace.add<float>(threads * scratch);
  workspace.allocate();
  workspace.attach();
  const auto attend_span = isa::active().attend_span;
  for_each_span(x, threads, [&](std::int64_t b, std::int64_t k, int worker) {
    const std::int64_t place = b * x.probes + k;
    const isa::Softmax softmax =
        attend_span(rows_of(x, b, k), x.weight + k * x.columns,
                    workspace.at<float>(of_shares) + worker * scratch, out + place * x.columns);
    logsums[place] = softmax.largest + std::log(softmax.total);
  });
}

void attend_spans_gradient(const AttendedSpans& x, const SpanMeans& means, float* of_x,
                           float* of_weight, int threads) {
  Workspace workspace;
  const std::size_t of_places = workspace.add<std::int64_t>(x.spans + 1);
  std::int64_t all = 0;
  for (std::int64_t b = 0; b < x.spans; ++b) all += x.stops[b] - x.starts[b];
  const std::size_t of_shares = workspace.add<float>(x.probes * all);
  const std::size_t of_slopes = workspace.add<float>(x.probes * all);
  workspace.allocate();
  workspace.attach();
  // Rows of the spans before each, and by probe the share and the slope of every row of a span.
  std::int64_t* places = workspace.at<std::int64_t>(of_places);
  places[0] = 0;
  for (std::int64_t b = 0; b < x.spans; ++b) {
    places[b + 1] = places[b] + x.stops[b] - x.starts[b];
  }
  float* shares = workspace.at<float>(of_shares);
  float* slopes = workspace.at<float>(of_slopes);
  const isa::Table& table = isa::active();
  for_each_span(x, threads, [&](std::int64_t b, std::int64_t k, int) {
    const std::int64_t place = b * x.probes + k, first = k * all + places[b];
    table.slopes_of_span(rows_of(x, b, k), x.weight + k * x.columns, means.logsums[place],
                         means.out + place * x.columns, means.of_out + place * x.columns,
                         shares + first, slopes + first);
  });
  // A row may be in several spans: a task adds them all up, for some columns.
  const std::int64_t parts = divide_up(x.columns, kColumns), step = x.probes * x.columns;
  parallel_for(x.probes * parts, threads, [&](std::int64_t task, int) {
    const std::int64_t k = task / parts, column = task % parts * kColumns;
    const std::int64_t count = std::min(kColumns, x.columns - column);
    const std::int64_t start = k * x.columns + column;
    for (std::int64_t i = 0; i < x.rows; ++i) std::fill_n(of_x + i * step + start, count, 0.0f);
    std::fill_n(of_weight + start, count, 0.0f);
    for (std::int64_t b = 0; b < x.spans; ++b) {
      isa::SpanRows rows = rows_of(x, b, k);
      rows.rows += column;
      rows.columns = count;
      const std::int64_t first = k * all + places[b];
      table.add_span_gradient(rows, x.weight + start, means.of_out + b * step + start,
                              shares + first, slopes + first, of_x + x.starts[b] * step + start,
                              of_weight + start);
    }
  });
}

}  // namespace bertft
