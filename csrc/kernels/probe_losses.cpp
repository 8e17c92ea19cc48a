#include "kernels/probe_losses.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numbers>

#include "kernels/operands.h"
#include "kernels/thread_pool.h"

namespace bertft {
namespace {

// Targets of a task, and of a partial sum of losses: two panels of the widest set.
constexpr std::int64_t kTargets = 2 * isa::kWidestPanel;
// Targets whose features are packed at a time.
constexpr std::int64_t kPackedTargets = 512;
// Features of a task: for all targets they stay in a cache of 1 MiB while the probes pass.
constexpr std::int64_t kFeatures = 6 * isa::kWidestPanel;

// Blocks of what all probes read, in groups of probes, one for each thread, as near as their number
// divides: a thread takes a block for each of its probes before the next one.
class Blocks {
 public:
  Blocks(std::int64_t probes, std::int64_t blocks, int threads)
      : probes_(probes),
        blocks_(blocks),
        groups_(std::max(std::min<std::int64_t>(threads, probes), std::int64_t{1})) {}

  std::int64_t tasks() const { return probes_ * blocks_; }

  struct Task {
    std::int64_t probe, block;
  };
  Task at(std::int64_t task) const {
    // The group whose probes, with all their blocks, the task is among.
    const std::int64_t probe = task / blocks_;
    const std::int64_t group = ((probe + 1) * groups_ - 1) / probes_;
    const std::int64_t first = probes_ * group / groups_;
    const std::int64_t size = probes_ * (group + 1) / groups_ - first;
    const std::int64_t place = task - first * blocks_;
    return {first + place % size, place / size};
  }

 private:
  const std::int64_t probes_, blocks_, groups_;
};

// What each probe loses on blocks of targets, added up in their order whoever came first.
class PartialLosses {
 public:
  PartialLosses(std::int64_t probes, std::int64_t targets, Workspace& workspace, int threads)
      : probes_(probes),
        targets_(targets),
        blocks_(probes, divide_up(targets, kTargets), threads),
        place_(workspace.add<double>(tasks())) {}

  std::int64_t tasks() const { return blocks_.tasks(); }

  // Calls visit(probe, first, count, loss) for a block of targets.
  template <class Visit>
  void measure(const Workspace& workspace, std::int64_t task, const Visit& visit) {
    const auto [k, block] = blocks_.at(task);
    const std::int64_t first = block * kTargets;
    isa::Loss loss;
    if (!visit(k, first, std::min(kTargets, targets_ - first), loss)) {
      is_finite_.store(false, std::memory_order_relaxed);
    }
    const isa::Product& factors = loss.factors;
    workspace.at<double>(place_)[block * probes_ + k] =
        loss.total + std::log(factors.mantissa) +
        static_cast<double>(factors.exponent) * std::numbers::ln2;
  }

  bool add_to(double* losses, const Workspace& workspace) const {
    const double* partial = workspace.at<double>(place_);
    for (std::int64_t task = 0; task < tasks(); ++task) losses[task % probes_] += partial[task];
    return is_finite_.load();
  }

 private:
  std::int64_t probes_, targets_;
  Blocks blocks_;
  std::size_t place_;
  std::atomic<bool> is_finite_{true};
};

// Calls differentiate(logits, probe, first, loss) for blocks of targets of all probes.
template <class Differentiate>
bool differentiate_logits(const Logits& x, double* losses, int threads,
                          const Differentiate& differentiate) {
  Workspace workspace;
  PartialLosses partial(x.probes, x.targets, workspace, threads);
  workspace.allocate();
  workspace.attach();
  parallel_for(partial.tasks(), threads, [&](std::int64_t task, int) {
    partial.measure(
        workspace, task, [&](std::int64_t k, std::int64_t first, std::int64_t count, auto& loss) {
          const std::int64_t row = x.offsets[k], labels = x.offsets[k + 1] - row;
          float* logits = x.logits + row * x.targets + first;
          return differentiate(isa::ProbeLogits{logits, x.targets, labels, count}, k, first, loss);
        });
  });
  return partial.add_to(losses, workspace);
}

// Gradients of linear probes on up to kPackedTargets targets. A probe has a row for each label, but
// none for the last where logits are relative to it.
class LinearGradient {
 public:
  LinearGradient(const LinearProbes& x, const LinearGradients& out, bool is_relative, bool is_added,
                 int threads)
      : x_(x),
        out_(out),
        is_relative_(is_relative),
        is_added_(is_added),
        threads_(threads),
        rows_(x.labels - is_relative),
        by_target_{x.x, x.x_row, 1, x.width, table_.narrow.panel_width, pack_},
        by_feature_{x.x, 1, x.x_row, x.targets, table_.narrow.panel_width, pack_},
        // Not a multiple of 4 KiB apart.
        logits_row_(divide_up(x.targets, 16) * 16 + 16),
        features_(x.probes, divide_up(x.width, kFeatures), threads),
        partial_(x.probes, x.targets, workspace_, threads) {
    by_target_.reserve(workspace_, x.targets);
    by_feature_.reserve(workspace_, x.width);
    of_logits_ = workspace_.add<float>(x.probes * rows_ * logits_row_);
    of_weights_ = workspace_.add<float>(is_relative ? x.probes * rows_ * x.width : 0);
    workspace_.allocate();
    workspace_.attach();
  }

  // Calls differentiate(logits, probe, first, loss) for blocks of targets of all probes.
  template <class Differentiate>
  bool run(const Differentiate& differentiate) {
    prepare();
    parallel_for(partial_.tasks(), threads_, [&](std::int64_t task, int) {
      partial_.measure(workspace_, task,
                       [&](std::int64_t k, std::int64_t first, std::int64_t count, auto& loss) {
                         predict(k, first, count);
                         const isa::ProbeLogits logits = {logits_of(k) + first, logits_row_, rows_,
                                                          count};
                         return differentiate(logits, k, first, loss);
                       });
    });
    parallel_for(features_.tasks(), threads_, [&](std::int64_t task, int) {
      const auto [k, block] = features_.at(task);
      sum(k, block * kFeatures);
    });
    return partial_.add_to(out_.losses, workspace_);
  }

 private:
  float* logits_of(std::int64_t k) const {
    return workspace_.at<float>(of_logits_) + k * rows_ * logits_row_;
  }
  float* relative_weights(std::int64_t k) const {
    return workspace_.at<float>(of_weights_) + k * rows_ * x_.width;
  }

  void prepare() const {
    const std::int64_t first = by_target_.tasks(x_.targets);
    parallel_for(first + by_feature_.tasks(x_.width), threads_, [&](std::int64_t task, int) {
      if (task < first) {
        by_target_.pack(workspace_, task, 0, x_.targets);
      } else {
        by_feature_.pack(workspace_, task - first, 0, x_.width);
      }
    });
    parallel_for(is_relative_ ? x_.probes : 0, threads_, [&](std::int64_t k, int) {
      table_.subtract_last(x_.weights + k * x_.labels * x_.width, x_.labels, x_.width,
                           relative_weights(k));
    });
  }

  // The logits of some targets.
  void predict(std::int64_t k, std::int64_t first, std::int64_t count) const {
    float* logits = logits_of(k) + first;
    if (x_.biases != nullptr) {
      const float* biases = x_.biases + k * x_.labels;
      const float of_last = is_relative_ ? biases[rows_] : 0.0f;
      for (std::int64_t c = 0; c < rows_; ++c) {
        std::fill_n(logits + c * logits_row_, count, biases[c] - of_last);
      }
    }
    const float* weights =
        is_relative_ ? relative_weights(k) : x_.weights + k * x_.labels * x_.width;
    multiply_panels(weights, x_.width, rows_, by_feature_, workspace_, x_.width, first, count,
                    x_.biases != nullptr, logits, logits_row_);
  }

  // The gradient of the weights of some features, and beside the first that of the biases.
  void sum(std::int64_t k, std::int64_t first) const {
    const float* logits = logits_of(k);
    float* weights = out_.weights + k * x_.labels * x_.width + first;
    const std::int64_t count = std::min(kFeatures, x_.width - first);
    multiply_panels(logits, logits_row_, rows_, by_target_, workspace_, x_.targets, first, count,
                    is_added_, weights, x_.width);
    if (is_relative_) table_.balance_last(weights, x_.labels, x_.width, count);
    if (first > 0 || out_.biases == nullptr) return;
    float* biases = out_.biases + k * x_.labels;
    for (std::int64_t c = 0; c < rows_; ++c) {
      const float before = is_added_ ? biases[c] : 0.0f;
      biases[c] = static_cast<float>(before + table_.sum(logits + c * logits_row_, x_.targets));
    }
    if (is_relative_) table_.balance_last(biases, x_.labels, 1, 1);
  }

  const isa::Table& table_ = isa::active();
  const decltype(isa::ProductKernels<float>::pack_panels) pack_ =
      isa::active().narrow_products.pack_panels;
  const LinearProbes x_;
  const LinearGradients out_;
  const bool is_relative_, is_added_;
  const int threads_;
  const std::int64_t rows_;
  Operand<float> by_target_, by_feature_;
  const std::int64_t logits_row_;
  std::size_t of_logits_ = 0, of_weights_ = 0;
  Workspace workspace_;
  const Blocks features_;
  PartialLosses partial_;
};

// Calls differentiate(logits, probe, first, loss) for blocks of targets of all probes.
template <class Differentiate>
bool linear_gradient(const LinearProbes& x, const LinearGradients& out, bool is_relative,
                     int threads, const Differentiate& differentiate) {
  if (x.targets == 0) {
    std::fill_n(out.weights, x.probes * x.labels * x.width, 0.0f);
    if (out.biases != nullptr) std::fill_n(out.biases, x.probes * x.labels, 0.0f);
  }
  bool is_finite = true;
  for (std::int64_t start = 0; start < x.targets; start += kPackedTargets) {
    LinearProbes part = x;
    part.x += start * x.x_row;
    part.targets = std::min(kPackedTargets, x.targets - start);
    is_finite &= LinearGradient(part, out, is_relative, start > 0, threads)
                     .run([&](const auto& logits, std::int64_t k, std::int64_t first, auto& loss) {
                       return differentiate(logits, k, start + first, loss);
                     });
  }
  return is_finite;
}

}  // namespace

bool softmax_gradient(const Logits& x, const std::int64_t* classes, double* losses, int threads) {
  const auto softmax_logits = isa::active().softmax_logits;
  return differentiate_logits(
      x, losses, threads,
      [&](const isa::ProbeLogits& logits, std::int64_t k, std::int64_t first, isa::Loss& loss) {
        return softmax_logits(logits, classes + k * x.targets + first, true, 1.0f, loss);
      });
}

bool sigmoid_gradient(const Logits& x, const std::uint8_t* labels, double* losses, int threads) {
  const auto sigmoid_logits = isa::active().sigmoid_logits;
  return differentiate_logits(
      x, losses, threads,
      [&](const isa::ProbeLogits& logits, std::int64_t k, std::int64_t first, isa::Loss& loss) {
        return sigmoid_logits(logits, labels + x.offsets[k] * x.targets + first, x.targets, 1.0f,
                              loss);
      });
}

bool linear_softmax_gradient(const LinearProbes& x, const std::int64_t* classes,
                             const LinearGradients& out, int threads) {
  const auto softmax_logits = isa::active().softmax_logits;
  return linear_gradient(
      x, out, true, threads,
      [&](const isa::ProbeLogits& logits, std::int64_t k, std::int64_t first, isa::Loss& loss) {
        return softmax_logits(logits, classes + k * x.targets + first, false, out.scales[k], loss);
      });
}

bool linear_sigmoid_gradient(const LinearProbes& x, const std::uint8_t* labels,
                             const LinearGradients& out, int threads) {
  const auto sigmoid_logits = isa::active().sigmoid_logits;
  return linear_gradient(
      x, out, false, threads,
      [&](const isa::ProbeLogits& logits, std::int64_t k, std::int64_t first, isa::Loss& loss) {
        return sigmoid_logits(logits, labels + k * x.labels * x.targets + first, x.targets,
                              out.scales[k], loss);
      });
}

}  // namespace bertft
