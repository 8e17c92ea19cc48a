#include "kernels/edge_probes.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <utility>

#include "kernels/hidden_units.h"
#include "kernels/multiply.h"
#include "kernels/panels.h"
#include "kernels/probe_losses.h"
#include "kernels/span_attention.h"
#include "kernels/thread_pool.h"

namespace bertft {
namespace {

// Whole cache lines of our own: the threads' workspaces belong to the kernels that are called.
using Floats = std::unique_ptr<float, decltype(&std::free)>;

Floats floats_of(std::int64_t count) {
  const std::int64_t lines = std::max(divide_up(count, 16), std::int64_t{1});
  void* memory = std::aligned_alloc(64, static_cast<std::size_t>(lines) * 64);
  if (memory == nullptr) throw std::bad_alloc();
  return {static_cast<float*>(memory), &std::free};
}

Matrices matrix(const float* x, std::int64_t rows, std::int64_t columns) {
  return {{x, DType::kFloat32, rows, columns, columns, 1}, 1, 0};
}

Matrices transposed(Matrices x) {
  std::swap(x.first.rows, x.first.columns);
  std::swap(x.first.row_stride, x.first.column_stride);
  return x;
}

// Those of the k-th probe.
template <class T>
EdgeParameters<T> parameters_of(const EdgeProbes& x, EdgeParameters<T> all, std::int64_t k) {
  for (auto& [weight, bias, attention] : all.projections) {
    weight += k * x.width * x.projected;
    bias += k * x.projected;
    attention += k * x.projected;
  }
  all.hidden += k * static_cast<std::int64_t>(x.spans.size()) * x.projected * x.units;
  all.hidden_bias += k * x.units;
  all.gain += k * x.units;
  all.shift += k * x.units;
  all.weight += k * x.units * x.labels;
  all.bias += k * x.labels;
  return all;
}

// One probe after another in the same memory. Threads take part in the products only: what lies
// between them is little, and at hand for the thread that goes on.
class EdgeGradient {
 public:
  explicit EdgeGradient(const EdgeProbes& x)
      : x_(x),
        pooled_(floats_of(x.targets * static_cast<std::int64_t>(x.spans.size()) * x.projected)),
        of_means_(floats_of(x.targets * x.projected)),
        sums_(floats_of(x.targets * x.units)),
        units_(floats_of(x.targets * x.units)),
        logits_(floats_of(x.labels * x.targets)) {
    std::int64_t most = 0;
    for (const EdgeSpans& span : x.spans) {
      attended_.push_back({floats_of(span.rows * x.projected), floats_of(x.targets * x.projected),
                           floats_of(x.targets)});
      most = std::max(most, span.rows);
    }
    of_rows_ = floats_of(most * x.projected);
  }

  bool run(std::int64_t k, const EdgeTargets& targets, double* losses,
           const EdgeParameters<float>& out, int threads) {
    k_ = k;
    own_ = parameters_of(x_, x_.parameters, k);
    out_ = parameters_of(x_, out, k);
    threads_ = threads;
    for (std::size_t s = 0; s < x_.spans.size(); ++s) attend(s);
    predict();
    const bool is_finite = differentiate(targets, losses);
    differentiate_head();
    for (std::size_t s = 0; s < x_.spans.size(); ++s) differentiate_span(s);
    return is_finite;
  }

 private:
  // Projected rows of a span of each target without their bias, their means, and the logarithms of
  // the softmax's sums.
  struct Attended {
    Floats rows, means, logsums;
  };

  void multiply(const Matrices& a, const Matrices& b, const Matrices& out, bool is_added = false) {
    bertft::multiply(a, b, out, threads_, is_added);
  }
  std::size_t projection_of(std::size_t s) const {
    return std::min(s, own_.projections.size() - 1);
  }
  std::int64_t all_projected() const {
    return static_cast<std::int64_t>(x_.spans.size()) * x_.projected;
  }
  Matrices rows_of(std::size_t s) const {
    const EdgeSpans& span = x_.spans[s];
    return matrix(span.x + k_ * span.apart, span.rows, x_.width);
  }
  Matrices projected_of(const Floats& rows, std::size_t s) const {
    return matrix(rows.get(), x_.spans[s].rows, x_.projected);
  }
  AttendedSpans spans_of(std::size_t s) const {
    const EdgeSpans& span = x_.spans[s];
    return {attended_[s].rows.get(),
            own_.projections[projection_of(s)].attention,
            span.rows,
            1,
            x_.projected,
            span.starts,
            span.stops,
            x_.targets};
  }
  HiddenUnits layer() const {
    const std::uint8_t* kept = x_.kept == nullptr ? nullptr : x_.kept + k_ * x_.targets * x_.units;
    return {x_.targets, 1,          x_.units, own_.hidden_bias, own_.gain,
            own_.shift, x_.epsilon, kept,     x_.scale};
  }
  Matrices pooled() const { return matrix(pooled_.get(), x_.targets, all_projected()); }
  Matrices sums() const { return matrix(sums_.get(), x_.targets, x_.units); }
  Matrices units() const { return matrix(units_.get(), x_.targets, x_.units); }
  Matrices weight() const { return matrix(own_.weight, x_.units, x_.labels); }
  Matrices logits() const { return matrix(logits_.get(), x_.labels, x_.targets); }

  // Shares sum to 1: a bias of the rows is one of their mean, and changes no share.
  void attend(std::size_t s) {
    const auto& projection = own_.projections[projection_of(s)];
    const Attended& own = attended_[s];
    multiply(rows_of(s), matrix(projection.weight, x_.width, x_.projected),
             projected_of(own.rows, s));
    attend_spans(spans_of(s), own.means.get(), own.logsums.get(), 1);
    const float* mean = own.means.get();
    float* row = pooled_.get() + static_cast<std::int64_t>(s) * x_.projected;
    for (std::int64_t b = 0; b < x_.targets; ++b) {
      for (std::int64_t j = 0; j < x_.projected; ++j) row[j] = mean[j] + projection.bias[j];
      mean += x_.projected;
      row += all_projected();
    }
  }

  void predict() {
    multiply(pooled(), matrix(own_.hidden, all_projected(), x_.units), sums());
    tanh_norm(layer(), sums_.get(), units_.get(), 1);
    float* row = logits_.get();
    for (std::int64_t c = 0; c < x_.labels; ++c, row += x_.targets) {
      std::fill_n(row, x_.targets, own_.bias[c]);
    }
    multiply(transposed(weight()), transposed(units()), logits(), true);
  }

  bool differentiate(const EdgeTargets& targets, double* losses) {
    const std::array<std::int64_t, 2> offsets = {0, x_.labels};
    const Logits all = {logits_.get(), x_.targets, offsets.data(), 1};
    const bool is_finite =
        targets.classes != nullptr
            ? softmax_gradient(all, targets.classes + k_ * x_.targets, losses + k_, 1)
            : sigmoid_gradient(all, targets.labels + k_ * x_.labels * x_.targets, losses + k_, 1);
    float* row = logits_.get();
    for (std::int64_t c = 0; c < x_.labels; ++c, row += x_.targets) {
      for (std::int64_t b = 0; b < x_.targets; ++b) row[b] *= targets.scales[k_];
      out_.bias[c] = static_cast<float>(isa::active().sum(row, x_.targets));
    }
    return is_finite;
  }

  void differentiate_head() {
    multiply(transposed(units()), transposed(logits()), matrix(out_.weight, x_.units, x_.labels));
    multiply(transposed(logits()), transposed(weight()), units());
    tanh_norm_gradient(layer(), sums_.get(), units_.get(),
                       {out_.hidden_bias, out_.gain, out_.shift}, 1);
    multiply(transposed(pooled()), units(), matrix(out_.hidden, all_projected(), x_.units));
  }

  void differentiate_span(std::size_t s) {
    const EdgeSpans& span = x_.spans[s];
    const Attended& own = attended_[s];
    const auto& out = out_.projections[projection_of(s)];
    const bool is_added = s > projection_of(s);
    const float* hidden = own_.hidden + static_cast<std::int64_t>(s) * x_.projected * x_.units;
    multiply(units(), transposed(matrix(hidden, x_.projected, x_.units)),
             matrix(of_means_.get(), x_.targets, x_.projected));
    if (!is_added) {
      std::fill_n(out.bias, x_.projected, 0.0f);
      std::fill_n(out.attention, x_.projected, 0.0f);
    }
    const float* row = of_means_.get();
    for (std::int64_t b = 0; b < x_.targets; ++b, row += x_.projected) {
      for (std::int64_t j = 0; j < x_.projected; ++j) out.bias[j] += row[j];
    }
    attend_spans_gradient(spans_of(s), {own.means.get(), own.logsums.get(), of_means_.get()},
                          of_rows_.get(), of_attention_.get(), 1);
    for (std::int64_t j = 0; j < x_.projected; ++j) out.attention[j] += of_attention_.get()[j];
    multiply(transposed(rows_of(s)), projected_of(of_rows_, s),
             matrix(out.weight, x_.width, x_.projected), is_added);
    if (span.of_x == nullptr) return;
    const float* weight = own_.projections[projection_of(s)].weight;
    multiply(projected_of(of_rows_, s), transposed(matrix(weight, x_.width, x_.projected)),
             matrix(span.of_x + k_ * span.rows * x_.width, span.rows, x_.width));
  }

  const EdgeProbes& x_;
  std::int64_t k_ = 0;
  EdgeParameters<const float> own_{};
  EdgeParameters<float> out_{};
  int threads_ = 1;
  std::vector<Attended> attended_;
  // Sums become hidden units; units, then dropped out, become their gradients.
  Floats pooled_, of_means_, sums_, units_, logits_;
  Floats of_rows_{nullptr, &std::free}, of_attention_{floats_of(x_.projected)};
};

}  // namespace

bool edge_gradient(const EdgeProbes& x, const EdgeTargets& targets, double* losses,
                   const EdgeParameters<float>& out, int threads) {
  // A thread for a probe, whose numbers stay in its own cache. The last probes are shared by all
  // threads, one after another, if half of these would have none.
  const std::int64_t rest = x.probes % threads;
  const std::int64_t alone = 2 * rest <= threads ? x.probes - rest : x.probes;
  std::vector<EdgeGradient> workers;
  const std::int64_t most = std::max(std::min<std::int64_t>(threads, alone), std::int64_t{1});
  workers.reserve(static_cast<std::size_t>(most));
  for (std::int64_t i = 0; i < most; ++i) workers.emplace_back(x);
  std::vector<char> is_finite(static_cast<std::size_t>(x.probes), 0);
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(x.probes));
  parallel_for(alone, threads, [&](std::int64_t k, int worker) {
    try {
      is_finite[static_cast<std::size_t>(k)] =
          workers[static_cast<std::size_t>(worker)].run(k, targets, losses, out, 1);
    } catch (...) {
      failures[static_cast<std::size_t>(k)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  for (std::int64_t k = alone; k < x.probes; ++k) {
    is_finite[static_cast<std::size_t>(k)] = workers[0].run(k, targets, losses, out, threads);
  }
  return std::all_of(is_finite.begin(), is_finite.end(), [](char own) { return own != 0; });
}

}  // namespace bertft
