#include "kernels/edge_probes.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "kernels/hidden_units.h"
#include "kernels/multiply.h"
#include "kernels/panels.h"
#include "kernels/probe_losses.h"
#include "kernels/span_attention.h"

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

// Contiguous (probes, rows, columns).
Matrices by_probe(const float* x, std::int64_t probes, std::int64_t rows, std::int64_t columns) {
  return {{x, DType::kFloat32, rows, columns, columns, 1}, probes, rows * columns};
}

// Contiguous (rows, probes, columns).
Matrices by_row(const float* x, std::int64_t rows, std::int64_t probes, std::int64_t columns) {
  return {{x, DType::kFloat32, rows, columns, probes * columns, 1}, probes, columns};
}

Matrices transposed(Matrices x) {
  std::swap(x.first.rows, x.first.columns);
  std::swap(x.first.row_stride, x.first.column_stride);
  return x;
}

class EdgeGradient {
 public:
  EdgeGradient(const EdgeProbes& x, const EdgeParameters<float>& out, int threads)
      : x_(x),
        out_(out),
        threads_(threads),
        sums_(floats_of(x.targets * x.probes * x.units)),
        units_(floats_of(x.targets * x.probes * x.units)),
        logits_(floats_of(x.probes * x.labels * x.targets)) {
    for (const EdgeSpans& span : x.spans) {
      attended_.push_back({floats_of(span.rows * x.probes * x.projected),
                           floats_of(x.targets * x.probes * x.projected),
                           floats_of(x.targets * x.probes),
                           floats_of(x.targets * x.probes * x.projected)});
    }
  }

  bool run(const EdgeTargets& targets, double* losses) {
    for (std::size_t s = 0; s < x_.spans.size(); ++s) attend(s);
    predict();
    const bool is_finite = differentiate(targets, losses);
    differentiate_head();
    for (std::size_t s = 0; s < x_.spans.size(); ++s) differentiate_span(s);
    return is_finite;
  }

 private:
  // Projected rows of a span of each target without their bias, their means, the logarithms of the
  // softmax's sums, and the means with the bias.
  struct Attended {
    Floats rows, means, logsums, pooled;
  };

  void multiply(const Matrices& a, const Matrices& b, const Matrices& out, bool is_added = false) {
    bertft::multiply(a, b, out, threads_, is_added);
  }
  std::size_t projection_of(std::size_t s) const {
    return std::min(s, x_.parameters.projections.size() - 1);
  }
  Matrices rows_of(std::size_t s) const {
    const EdgeSpans& span = x_.spans[s];
    Matrices rows = by_probe(span.x, x_.probes, span.rows, x_.width);
    rows.apart = span.apart;
    return rows;
  }
  AttendedSpans spans_of(std::size_t s) const {
    const EdgeSpans& span = x_.spans[s];
    return {attended_[s].rows.get(),
            x_.parameters.projections[projection_of(s)].attention,
            span.rows,
            x_.probes,
            x_.projected,
            span.starts,
            span.stops,
            x_.targets};
  }
  HiddenUnits layer() const {
    const auto& p = x_.parameters;
    return {x_.targets, x_.probes,  x_.units, p.hidden_bias, p.gain,
            p.shift,    x_.epsilon, x_.kept,  x_.scale};
  }
  // The rows of `hidden` that read a span.
  Matrices hidden_of(const float* hidden, std::size_t s) const {
    const std::int64_t first = static_cast<std::int64_t>(s) * x_.projected * x_.units;
    Matrices part = by_probe(hidden + first, x_.probes, x_.projected, x_.units);
    part.apart *= static_cast<std::int64_t>(x_.spans.size());
    return part;
  }
  Matrices pooled_of(std::size_t s) const {
    return by_row(attended_[s].pooled.get(), x_.targets, x_.probes, x_.projected);
  }
  Matrices projected_of(const float* rows, std::size_t s) const {
    return by_row(rows, x_.spans[s].rows, x_.probes, x_.projected);
  }
  Matrices weights_of(const float* weight) const {
    return by_probe(weight, x_.probes, x_.width, x_.projected);
  }
  Matrices sums() const { return by_row(sums_.get(), x_.targets, x_.probes, x_.units); }
  Matrices units() const { return by_row(units_.get(), x_.targets, x_.probes, x_.units); }
  Matrices logits() const { return by_probe(logits_.get(), x_.probes, x_.labels, x_.targets); }

  // Shares sum to 1: a bias of the rows is one of their mean, and changes no share.
  void attend(std::size_t s) {
    const auto& projection = x_.parameters.projections[projection_of(s)];
    Attended& own = attended_[s];
    multiply(rows_of(s), weights_of(projection.weight), projected_of(own.rows.get(), s));
    attend_spans(spans_of(s), own.means.get(), own.logsums.get(), threads_);
    const std::int64_t columns = x_.probes * x_.projected;
    for (std::int64_t i = 0; i < x_.targets * columns; i += columns) {
      const float* mean = own.means.get() + i;
      float* pooled = own.pooled.get() + i;
      for (std::int64_t j = 0; j < columns; ++j) pooled[j] = mean[j] + projection.bias[j];
    }
    multiply(pooled_of(s), hidden_of(x_.parameters.hidden, s), sums(), s > 0);
  }

  void predict() {
    tanh_norm(layer(), sums_.get(), units_.get(), threads_);
    float* row = logits_.get();
    for (std::int64_t k = 0; k < x_.probes * x_.labels; ++k, row += x_.targets) {
      std::fill_n(row, x_.targets, x_.parameters.bias[k]);
    }
    multiply(transposed(by_probe(x_.parameters.weight, x_.probes, x_.units, x_.labels)),
             transposed(units()), logits(), true);
  }

  bool differentiate(const EdgeTargets& targets, double* losses) {
    std::vector<std::int64_t> offsets;
    for (std::int64_t k = 0; k <= x_.probes; ++k) offsets.push_back(k * x_.labels);
    const Logits all = {logits_.get(), x_.targets, offsets.data(), x_.probes};
    const bool is_finite = targets.classes != nullptr
                               ? softmax_gradient(all, targets.classes, losses, threads_)
                               : sigmoid_gradient(all, targets.labels, losses, threads_);
    float* row = logits_.get();
    for (std::int64_t k = 0; k < x_.probes * x_.labels; ++k, row += x_.targets) {
      const float scale = targets.scales[k / x_.labels];
      for (std::int64_t b = 0; b < x_.targets; ++b) row[b] *= scale;
      out_.bias[k] = static_cast<float>(isa::active().sum(row, x_.targets));
    }
    return is_finite;
  }

  void differentiate_head() {
    multiply(transposed(units()), transposed(logits()),
             by_probe(out_.weight, x_.probes, x_.units, x_.labels));
    multiply(transposed(logits()),
             transposed(by_probe(x_.parameters.weight, x_.probes, x_.units, x_.labels)), units());
    tanh_norm_gradient(layer(), sums_.get(), units_.get(),
                       {out_.hidden_bias, out_.gain, out_.shift}, threads_);
  }

  void differentiate_span(std::size_t s) {
    const EdgeSpans& span = x_.spans[s];
    const auto& out = out_.projections[projection_of(s)];
    const bool is_added = s > projection_of(s);
    const Attended& own = attended_[s];
    const std::int64_t columns = x_.probes * x_.projected;
    multiply(transposed(pooled_of(s)), units(), hidden_of(out_.hidden, s));
    const Floats of_means = floats_of(x_.targets * columns);
    multiply(units(), transposed(hidden_of(x_.parameters.hidden, s)),
             by_row(of_means.get(), x_.targets, x_.probes, x_.projected));
    if (!is_added) std::fill_n(out.bias, columns, 0.0f);
    for (std::int64_t b = 0; b < x_.targets; ++b) {
      const float* row = of_means.get() + b * columns;
      for (std::int64_t j = 0; j < columns; ++j) out.bias[j] += row[j];
    }
    const Floats of_rows = floats_of(span.rows * columns), of_attention = floats_of(columns);
    attend_spans_gradient(spans_of(s), {own.means.get(), own.logsums.get(), of_means.get()},
                          of_rows.get(), of_attention.get(), threads_);
    for (std::int64_t j = 0; j < columns; ++j) {
      out.attention[j] = (is_added ? out.attention[j] : 0.0f) + of_attention.get()[j];
    }
    multiply(transposed(rows_of(s)), projected_of(of_rows.get(), s), weights_of(out.weight),
             is_added);
    if (span.of_x == nullptr) return;
    const float* weight = x_.parameters.projections[projection_of(s)].weight;
    multiply(projected_of(of_rows.get(), s), transposed(weights_of(weight)),
             by_probe(span.of_x, x_.probes, span.rows, x_.width));
  }

  const EdgeProbes& x_;
  const EdgeParameters<float>& out_;
  const int threads_;
  std::vector<Attended> attended_;
  // Sums become hidden units; units, then dropped out, become their gradients.
  Floats sums_, units_, logits_;
};

}  // namespace

bool edge_gradient(const EdgeProbes& x, const EdgeTargets& targets, double* losses,
                   const EdgeParameters<float>& out, int threads) {
  return EdgeGradient(x, out, threads).run(targets, losses);
}

}  // namespace bertft
