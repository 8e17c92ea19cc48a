// Gradients of the losses of many structural probes, whose projected rows lie side by side.
#pragma once

#include <cstdint>

namespace bertft {

// Rows of words, sentence s in rows offsets[s] to offsets[s + 1] (at least one), and probe k in
// columns k * rank to (k + 1) * rank; a row begins `row` elements after the one before.
struct ProjectedSentences {
  float* rows;
  std::int64_t row;
  const std::int64_t* offsets;
  std::int64_t sentences, probes, rank;
};

// Rows p become the gradient of what losses[k] is added for each sentence of n words,
// sum over i, j of | |p_i - p_j|^2 - gold_ij | / n^2; `gold` has the (n, n) table of each sentence,
// one after another, symmetric and 0 on the diagonal. Returns whether what is added is finite. No
// table of more than n by n values is made, one for each thread; a probe gets the same bits
// whatever is beside it and however many threads there are. O(n^2 rank) for each sentence and
// probe. Throws std::bad_alloc.
bool distance_gradient(const ProjectedSentences& x, const float* gold, double* losses, int threads);

// The same for sum over i of | |p_i|^2 - gold_i | / n, with a value of `gold` for each row.
bool depth_gradient(const ProjectedSentences& x, const float* gold, double* losses, int threads);

}  // namespace bertft
