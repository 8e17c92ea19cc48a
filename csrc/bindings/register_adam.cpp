#include <pybind11/stl.h>

#include <cmath>
#include <optional>

#include "bindings/view.h"
#include "kernels/adam.h"

namespace py = pybind11;

namespace bertft {
namespace {

using Views = std::vector<View>;

double value_at(const View& view, std::int64_t i) {
  if (view.dtype == DType::kFloat64) return reinterpret_cast<const double*>(view.address)[i];
  return reinterpret_cast<const float*>(view.address)[i];
}

float* floats(const View& view) { return reinterpret_cast<float*>(view.address); }

void adam_of(const Views& weights, const Views& gradients, const Views& first, const Views& second,
             const std::optional<Views>& largest, const View& rates, const View& decays,
             std::int64_t step, double beta_1, double beta_2, double epsilon,
             std::optional<double> most, int threads) {
  const Checker check{"adam"};
  const std::size_t count = weights.size();
  const std::int64_t rows = rates.shape[0];
  std::vector<Checker::Named> outputs, inputs = {{&rates, "rates"}, {&decays, "decays"}};
  const auto list = [&](const Views& views, const char* name, std::vector<Checker::Named>& into) {
    if (views.size() != count) {
      check.fail(std::string(name) + " must have " + std::to_string(count) + " entries, got " +
                 std::to_string(views.size()) + "; pass one for each.");
    }
    for (std::size_t i = 0; i < count; ++i) {
      check.contiguous(views[i], name, DType::kFloat32,
                       {rows, check.matrix(weights[i], "weights").columns});
      into.push_back({&views[i], name});
    }
  };
  list(weights, "weights", outputs);
  list(gradients, "gradients", inputs);
  list(first, "first", outputs);
  list(second, "second", outputs);
  if (largest) list(*largest, "largest", outputs);
  const auto either = [](const View& view) {
    return view.dtype == DType::kFloat32 ? DType::kFloat32 : DType::kFloat64;
  };
  check.contiguous(rates, "rates", either(rates), {rows});
  check.contiguous(decays, "decays", either(decays), {static_cast<std::int64_t>(count), rows});
  if (step < 1) {
    check.fail("step must be at least 1, got " + std::to_string(step) + "; count from 1.");
  }
  check.disjoint(outputs, inputs);
  check.threads(threads);
  const double steps = static_cast<double>(step);
  const double correction = 1.0 - std::pow(beta_1, steps);
  isa::AdamStep common = {};
  common.toward_gradient = static_cast<float>(1.0 - beta_1);
  common.of_second = static_cast<float>(beta_2);
  common.of_square = static_cast<float>(1.0 - beta_2);
  common.inverse_root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta_2, steps)));
  common.epsilon = static_cast<float>(epsilon);
  AdamParameters parameters = {{}, rows};
  for (std::size_t m = 0; m < count; ++m) {
    AdamMatrices matrix = {{floats(weights[m]), floats(first[m]), floats(second[m]),
                            largest ? floats((*largest)[m]) : nullptr, floats(gradients[m])},
                           weights[m].shape[1],
                           std::vector<isa::AdamStep>(static_cast<std::size_t>(rows), common)};
    for (std::int64_t i = 0; i < rows; ++i) {
      const double rate = value_at(rates, i);
      const double decay = value_at(decays, static_cast<std::int64_t>(m) * rows + i);
      matrix.steps[i].kept = static_cast<float>(1.0 - rate * decay);
      matrix.steps[i].size = static_cast<float>(rate / correction);
    }
    parameters.matrices.push_back(std::move(matrix));
  }
  py::gil_scoped_release release;
  adam(parameters, most, threads);
}

}  // namespace

void register_adam(py::module_& module) {
  module.def("adam", &adam_of, py::arg("weights"), py::arg("gradients"), py::arg("first"),
             py::arg("second"), py::arg("largest"), py::arg("rates"), py::arg("decays"),
             py::arg("step"), py::arg("beta_1"), py::arg("beta_2"), py::arg("epsilon"),
             py::arg("clip"), py::arg("threads"),
             "A step of Adam, or of AMSGrad where largest is given.");
}

}  // namespace bertft
