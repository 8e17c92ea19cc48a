// Gradients of edge probes in one call: what the pieces of spans say of their labels.
#pragma once

#include <cstdint>
#include <vector>

namespace bertft {

// Parameters of `probes` probes, or their gradients; contiguous.
template <class T>
struct EdgeParameters {
  struct Projection {
    T *weight, *bias, *attention;  // (probes, width, projected), and twice (probes, projected)
  };
  std::vector<Projection> projections;  // one, or one for each span of a target
  T* hidden;                            // (probes, spans x projected, units)
  T *hidden_bias, *gain, *shift;        // (probes, units)
  T *weight, *bias;                     // (probes, units, labels) and (probes, labels)
};

// One span of every target: its rows are those from starts[b] up to stops[b], at least one.
struct EdgeSpans {
  const float* x;            // (rows, width) for each probe, `apart` elements from one to the next
  std::int64_t rows, apart;  // apart is 0 where all probes read the same
  const std::int64_t *starts, *stops;
  float* of_x;  // (probes, rows, width), the gradient to write, or nullptr
};

struct EdgeProbes {
  EdgeParameters<const float> parameters;
  std::int64_t probes, width, projected, units, labels, targets;
  std::vector<EdgeSpans> spans;
  float epsilon;             // of the normalization
  const std::uint8_t* kept;  // (probes, targets, units) of dropout, or nullptr for all
  float scale;               // of units that are kept
};

// One of classes (probes, targets) and labels (probes, labels, targets), as in probe_losses.h, and
// what the gradients of each probe are multiplied by.
struct EdgeTargets {
  const std::int64_t* classes;
  const std::uint8_t* labels;
  const float* scales;
};

// With z = x W, m the mean of each span's z by self-attention, plus b, and u the hidden units of
// sum_s m_s H_s, dropped out: adds the losses of logits u V + c to losses[k], and writes their
// scaled gradients. Returns whether every logit that counts is finite. Neither the number of
// threads nor other probes change a bit. O(rows x width x projected x probes), and as much for the
// hidden layer; memory for what lies between in as many probes as threads. Throws std::bad_alloc.
bool edge_gradient(const EdgeProbes& x, const EdgeTargets& targets, double* losses,
                   const EdgeParameters<float>& out, int threads);

}  // namespace bertft
