// Gradients of the cross-entropies of many probes, from their logits or from what they read.
#pragma once

#include <cstdint>

#include "kernels/cross_moments.h"

namespace bertft {

// Contiguous (offsets[probes], targets): probe k has the rows from offsets[k] to offsets[k + 1], at
// least one, each for a label.
struct Logits {
  float* logits;
  std::int64_t targets;
  const std::int64_t* offsets;
  std::int64_t probes;
};

// By target and probe logits = softmax(logits) - onehot(class), and losses[k] += sum of
// log(sum(exp(logits))) - logits[class]; classes (probes, targets), below the labels of the probe,
// or -1 for gradients of zero and no loss. Returns whether every logit that counts is finite. exp
// is right to 1.2e-7, sums are float64, and a probe gets the same bits whatever is beside it and
// however many threads there are. O(rows x targets).
bool softmax_gradient(const Logits& x, const std::int64_t* classes, double* losses, int threads);

// The same for independent labels: logits = sigmoid(logits) - y, and losses[k] += sum of
// log(1 + exp(logit)) - y logit; labels y like the logits, 0, 1, or 255 where none counts.
bool sigmoid_gradient(const Logits& x, const std::uint8_t* labels, double* losses, int threads);

// Probes that read the same rows x (targets, width), all with as many labels: z_k = x W_k^T + b_k.
struct LinearProbes {
  const float* x;
  std::int64_t targets, width, x_row;  // x_row elements from one row to the next
  const float *weights, *biases;       // (probes x labels, width) and (probes x labels) or nullptr
  std::int64_t probes, labels;
};

// scales[k] times the gradients of all that losses[k] is added.
struct LinearGradients {
  const float* scales;
  double* losses;
  float *weights, *biases;  // like those of the probes, written
};

// As above from logits that are never whole in memory. Softmax sees differences of logits only: the
// product has a row less for each probe, logits less those of the last label, and so has the
// gradient's, whose last row is minus the sum of the others. A probe gets the same bits whatever is
// beside it. O(targets x width x probes x labels); memory for 512 packed rows of x and their
// logits. Throws std::bad_alloc.
bool linear_softmax_gradient(const LinearProbes& probes, const std::int64_t* classes,
                             const LinearGradients& out, int threads);
bool linear_sigmoid_gradient(const LinearProbes& probes, const std::uint8_t* labels,
                             const LinearGradients& out, int threads);

}  // namespace bertft
