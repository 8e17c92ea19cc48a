#include <pybind11/stl.h>

#include <optional>

#include "bindings/targets.h"
#include "bindings/view.h"
#include "kernels/probe_losses.h"

namespace py = pybind11;

namespace bertft {
namespace {

// Logits whose probes have at least one row each and together all of them.
Logits logits_of(const Checker& check, const View& logits, const View& offsets) {
  const Matrix x = check.matrix(logits, "logits");
  check.contiguous(logits, "logits", DType::kFloat32, {x.rows, x.columns});
  const std::int64_t probes = offsets.shape[0] - 1;
  check.contiguous(offsets, "offsets", DType::kInt64, {probes + 1});
  const auto* rows = as<const std::int64_t>(offsets);
  bool rise = probes >= 0 && rows[0] == 0 && rows[probes] == x.rows;
  for (std::int64_t k = 0; rise && k < probes; ++k) rise = rows[k] < rows[k + 1];
  if (!rise) {
    check.fail("offsets must rise from 0 to the " + std::to_string(x.rows) +
               " rows of logits, got " + std::to_string(offsets.shape[0]) +
               " that do not; give every probe its rows.");
  }
  return {as<float>(logits), x.columns, rows, probes};
}

bool softmax_gradient_of(const View& logits, const View& offsets, const View& targets,
                         const View& losses, int threads) {
  const Checker check{"softmax_gradient"};
  const Logits x = logits_of(check, logits, offsets);
  check.contiguous(targets, "targets", DType::kInt64, {x.probes, x.targets});
  check.contiguous(losses, "losses", DType::kFloat64, {x.probes});
  check.disjoint({{&logits, "logits"}, {&losses, "losses"}},
                 {{&offsets, "offsets"}, {&targets, "targets"}});
  check.threads(threads);
  const auto* classes = as<const std::int64_t>(targets);
  for (std::int64_t k = 0; k < x.probes; ++k) {
    require_classes(check, classes, k, x.offsets[k + 1] - x.offsets[k], x.targets);
  }
  py::gil_scoped_release release;
  return softmax_gradient(x, classes, as<double>(losses), threads);
}

bool sigmoid_gradient_of(const View& logits, const View& offsets, const View& targets,
                         const View& losses, int threads) {
  const Checker check{"sigmoid_gradient"};
  const Logits x = logits_of(check, logits, offsets);
  check.contiguous(targets, "targets", DType::kUInt8, {logits.shape[0], x.targets});
  check.contiguous(losses, "losses", DType::kFloat64, {x.probes});
  check.disjoint({{&logits, "logits"}, {&losses, "losses"}},
                 {{&offsets, "offsets"}, {&targets, "targets"}});
  check.threads(threads);
  const auto* labels = as<const std::uint8_t>(targets);
  for (std::int64_t k = 0; k < x.probes; ++k) {
    require_labels(check, labels, k, x.offsets[k], x.offsets[k + 1], x.targets);
  }
  py::gil_scoped_release release;
  return sigmoid_gradient(x, labels, as<double>(losses), threads);
}

bool linear_gradient_of(const View& rows, const View& weights, const std::optional<View>& biases,
                        const View& targets, const View& scales, const View& losses,
                        const View& of_weights, const std::optional<View>& of_biases, int threads) {
  const Checker check{"linear_gradient"};
  const Matrix x = check.matrix(rows, "x"), w = check.matrix(weights, "weights");
  if (x.dtype != DType::kFloat32 || (x.columns > 1 && x.column_stride != 1) ||
      x.columns != w.columns) {
    check.fail("x must be float32 with contiguous rows of " + std::to_string(w.columns) +
               " columns, got " + std::to_string(x.columns) + " with a stride of " +
               std::to_string(x.column_stride) + "; pass a contiguous copy.");
  }
  const std::int64_t probes = losses.shape[0];
  if (probes == 0 || w.rows == 0 || w.rows % probes != 0) {
    check.fail("weights must have as many rows for each of the " + std::to_string(probes) +
               " probes, got " + std::to_string(w.rows) + "; give losses an entry for each probe.");
  }
  if (biases.has_value() != of_biases.has_value()) {
    check.fail("biases and of_biases must be given both or neither, got one; allocate both.");
  }
  const std::int64_t labels = w.rows / probes;
  check.contiguous(weights, "weights", DType::kFloat32, {w.rows, w.columns});
  check.contiguous(scales, "scales", DType::kFloat32, {probes});
  check.contiguous(losses, "losses", DType::kFloat64, {probes});
  check.contiguous(of_weights, "of_weights", DType::kFloat32, {w.rows, w.columns});
  std::vector<Checker::Named> inputs = {
      {&rows, "x"}, {&weights, "weights"}, {&targets, "targets"}, {&scales, "scales"}};
  std::vector<Checker::Named> outputs = {{&losses, "losses"}, {&of_weights, "of_weights"}};
  if (biases) {
    check.contiguous(*biases, "biases", DType::kFloat32, {w.rows});
    check.contiguous(*of_biases, "of_biases", DType::kFloat32, {w.rows});
    inputs.push_back({&*biases, "biases"});
    outputs.push_back({&*of_biases, "of_biases"});
  }
  check.disjoint(outputs, inputs);
  check.threads(threads);
  const bool has_classes = require_targets(check, targets, probes, labels, x.rows);
  const LinearProbes linear = {static_cast<const float*>(x.address),
                               x.rows,
                               x.columns,
                               x.row_stride,
                               as<const float>(weights),
                               biases ? as<const float>(*biases) : nullptr,
                               probes,
                               labels};
  const LinearGradients out = {as<const float>(scales), as<double>(losses), as<float>(of_weights),
                               of_biases ? as<float>(*of_biases) : nullptr};
  py::gil_scoped_release release;
  return has_classes
             ? linear_softmax_gradient(linear, as<const std::int64_t>(targets), out, threads)
             : linear_sigmoid_gradient(linear, as<const std::uint8_t>(targets), out, threads);
}

}  // namespace

void register_probe_losses(py::module_& module) {
  module.def("softmax_gradient", &softmax_gradient_of, py::arg("logits"), py::arg("offsets"),
             py::arg("targets"), py::arg("losses"), py::arg("threads"),
             "Logits of probes to gradients of softmax cross-entropies; whether all are finite.");
  module.def("sigmoid_gradient", &sigmoid_gradient_of, py::arg("logits"), py::arg("offsets"),
             py::arg("targets"), py::arg("losses"), py::arg("threads"),
             "Logits of probes to gradients of binary cross-entropies; whether all are finite.");
  module.def("linear_gradient", &linear_gradient_of, py::arg("x"), py::arg("weights"),
             py::arg("biases"), py::arg("targets"), py::arg("scales"), py::arg("losses"),
             py::arg("of_weights"), py::arg("of_biases"), py::arg("threads"),
             "Gradients of linear probes' cross-entropies; whether all logits are finite.");
}

}  // namespace bertft
