#include <pybind11/stl.h>

#include <array>
#include <optional>

#include "bindings/targets.h"
#include "bindings/view.h"
#include "kernels/edge_probes.h"

namespace py = pybind11;

namespace bertft {
namespace {

using Projections = std::vector<std::array<View, 3>>;
using Head = std::array<View, 6>;
using Spans = std::vector<std::array<View, 3>>;
using Named = std::vector<Checker::Named>;

// Sizes of probes, from the shapes of what has the most axes.
struct Sizes {
  std::int64_t probes, width, projected, units, labels, spans;
};

Sizes sizes_of(const Checker& check, const Projections& projections, const Head& head,
               std::size_t spans) {
  if (spans < 1 || projections.empty() ||
      (projections.size() != 1 && projections.size() != spans)) {
    check.fail("probes must have one projection, or one for each span, got " +
               std::to_string(projections.size()) + " for " + std::to_string(spans) +
               " spans; pass as many.");
  }
  const View &first = projections[0][0], &hidden = head[0], &weight = head[4];
  if (first.shape.size() != 3 || hidden.shape.size() != 3 || weight.shape.size() != 3) {
    check.fail("weights must have three axes, got others; reshape them.");
  }
  return {first.shape[0],  first.shape[1],  first.shape[2],
          hidden.shape[2], weight.shape[2], static_cast<std::int64_t>(spans)};
}

template <class T>
EdgeParameters<T> parameters_of(const Checker& check, const Projections& projections,
                                const Head& head, const Sizes& n, Named& named) {
  EdgeParameters<T> found;
  const auto checked = [&](const View& view, const char* name,
                           std::initializer_list<std::int64_t> shape) {
    check.contiguous(view, name, DType::kFloat32, shape);
    named.push_back({&view, name});
    return as<T>(view);
  };
  for (const auto& [weight, bias, attention] : projections) {
    found.projections.push_back({checked(weight, "projection", {n.probes, n.width, n.projected}),
                                 checked(bias, "projection_bias", {n.probes, n.projected}),
                                 checked(attention, "attention", {n.probes, n.projected})});
  }
  found.hidden = checked(head[0], "hidden", {n.probes, n.spans * n.projected, n.units});
  found.hidden_bias = checked(head[1], "hidden_bias", {n.probes, n.units});
  found.gain = checked(head[2], "gain", {n.probes, n.units});
  found.shift = checked(head[3], "shift", {n.probes, n.units});
  found.weight = checked(head[4], "weight", {n.probes, n.units, n.labels});
  found.bias = checked(head[5], "bias", {n.probes, n.labels});
  return found;
}

EdgeSpans spans_of(const Checker& check, const std::array<View, 3>& given, const Sizes& n,
                   std::int64_t targets, Named& named) {
  const auto& [x, starts, stops] = given;
  const bool is_shared = x.shape.size() == 2;
  const std::int64_t rows = x.shape[is_shared ? 0 : 1];
  if (is_shared) {
    check.contiguous(x, "x", DType::kFloat32, {rows, n.width});
  } else {
    check.contiguous(x, "x", DType::kFloat32, {n.probes, rows, n.width});
  }
  require_spans(check, starts, stops, targets, rows);
  named.insert(named.end(), {{&x, "x"}, {&starts, "starts"}, {&stops, "stops"}});
  return {as<const float>(x),
          rows,
          is_shared ? 0 : rows * n.width,
          as<const std::int64_t>(starts),
          as<const std::int64_t>(stops),
          nullptr};
}

bool edge_gradient_of(const Projections& projections, const Head& head, const Spans& spans,
                      const View& targets, const View& scales, const std::optional<View>& kept,
                      double scale, double epsilon, const View& losses,
                      const Projections& of_projections, const Head& of_head,
                      const std::optional<std::vector<View>>& of_x, int threads) {
  const Checker check{"edge_gradient"};
  const Sizes n = sizes_of(check, projections, head, spans.size());
  Named inputs = {{&targets, "targets"}, {&scales, "scales"}}, outputs = {{&losses, "losses"}};
  EdgeProbes x;
  x.parameters = parameters_of<const float>(check, projections, head, n, inputs);
  x.probes = n.probes;
  x.width = n.width;
  x.projected = n.projected;
  x.units = n.units;
  x.labels = n.labels;
  x.targets = targets.shape.back();
  for (const auto& given : spans) x.spans.push_back(spans_of(check, given, n, x.targets, inputs));
  if (kept) {
    check.contiguous(*kept, "kept", DType::kUInt8, {n.probes, x.targets, n.units});
    inputs.push_back({&*kept, "kept"});
  }
  x.kept = kept ? as<const std::uint8_t>(*kept) : nullptr;
  x.scale = static_cast<float>(scale);
  x.epsilon = static_cast<float>(epsilon);
  check.contiguous(scales, "scales", DType::kFloat32, {n.probes});
  check.contiguous(losses, "losses", DType::kFloat64, {n.probes});
  if (of_projections.size() != projections.size() || (of_x && of_x->size() != spans.size())) {
    check.fail("gradients must be as many as what they are of, got others; pass as many.");
  }
  const auto out = parameters_of<float>(check, of_projections, of_head, n, outputs);
  for (std::size_t s = 0; of_x && s < spans.size(); ++s) {
    const View& view = (*of_x)[s];
    check.contiguous(view, "of_x", DType::kFloat32, {n.probes, x.spans[s].rows, n.width});
    outputs.push_back({&view, "of_x"});
    x.spans[s].of_x = as<float>(view);
  }
  const bool has_classes = require_targets(check, targets, n.probes, n.labels, x.targets);
  check.disjoint(outputs, inputs);
  check.threads(threads);
  const EdgeTargets wanted = {has_classes ? as<const std::int64_t>(targets) : nullptr,
                              has_classes ? nullptr : as<const std::uint8_t>(targets),
                              as<const float>(scales)};
  py::gil_scoped_release release;
  return edge_gradient(x, wanted, as<double>(losses), out, threads);
}

}  // namespace

void register_edge_probes(py::module_& module) {
  module.def("edge_gradient", &edge_gradient_of, py::arg("projections"), py::arg("head"),
             py::arg("spans"), py::arg("targets"), py::arg("scales"), py::arg("kept"),
             py::arg("scale"), py::arg("epsilon"), py::arg("losses"), py::arg("of_projections"),
             py::arg("of_head"), py::arg("of_x"), py::arg("threads"),
             "Gradients of edge probes' cross-entropies; whether all logits are finite.");
}

}  // namespace bertft
