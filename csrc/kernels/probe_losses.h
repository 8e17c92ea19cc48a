// Gradients of the cross-entropies of many probes, whose logits lie side by side.
#pragma once

#include <cstdint>

#include "isa/table.h"

namespace bertft {

// Of the logits, every probe has at least one column: logits = softmax(logits) - onehot(target) by
// row and probe, and losses[k] += sum of log(sum(exp(logits))) - logits[target]; targets (rows,
// probes), below the columns of the probe, or -1 for gradients of zero and no loss. Returns whether
// every logit that counts is finite. exp is right to 1.2e-7, sums are float64, and a probe gets the
// same bits whatever is beside it and however many threads there are. O(rows x columns).
bool softmax_gradient(const isa::LogitRows& logits, const std::int64_t* targets, double* losses,
                      int threads);

// The same for independent columns: logits = sigmoid(logits) - y, and losses[k] += sum of
// log(1 + exp(logit)) - y logit; targets (rows, columns) are 0, 1, or 255 where none counts.
bool sigmoid_gradient(const isa::LogitRows& logits, const std::uint8_t* targets, double* losses,
                      int threads);

}  // namespace bertft
