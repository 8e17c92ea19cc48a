#include <pybind11/stl.h>

#include <cmath>
#include <optional>

#include "bindings/view.h"
#include "kernels/adam.h"

namespace py = pybind11;

namespace bertft {
namespace {

double value_at(const View& view, std::int64_t i) {
  if (view.dtype == DType::kFloat64) return reinterpret_cast<const double*>(view.address)[i];
  return reinterpret_cast<const float*>(view.address)[i];
}

float* floats(const View& view) { return reinterpret_cast<float*>(view.address); }

void adam_of(const View& weights, const View& gradients, const View& first, const View& second,
             const std::optional<View>& largest, const View& rates, const View& decays,
             std::int64_t step, double beta_1, double beta_2, double epsilon, int threads) {
  const Checker check{"adam"};
  const Matrix x = check.matrix(weights, "weights");
  std::vector<Checker::Named> outputs = {
      {&weights, "weights"}, {&first, "first"}, {&second, "second"}};
  if (largest) outputs.push_back({&*largest, "largest"});
  for (const Checker::Named& output : outputs) {
    check.contiguous(*output.view, output.name, DType::kFloat32, {x.rows, x.columns});
  }
  check.contiguous(gradients, "gradients", DType::kFloat32, {x.rows, x.columns});
  const auto of_row = [&](const View& view, const char* name) {
    check.contiguous(view, name, view.dtype == DType::kFloat32 ? DType::kFloat32 : DType::kFloat64,
                     {x.rows});
  };
  of_row(rates, "rates");
  of_row(decays, "decays");
  if (step < 1) {
    check.fail("step must be at least 1, got " + std::to_string(step) + "; count from 1.");
  }
  check.disjoint(outputs, {{&gradients, "gradients"}, {&rates, "rates"}, {&decays, "decays"}});
  check.threads(threads);
  const double count = static_cast<double>(step);
  const double correction = 1.0 - std::pow(beta_1, count);
  isa::AdamStep common = {};
  common.toward_gradient = static_cast<float>(1.0 - beta_1);
  common.of_second = static_cast<float>(beta_2);
  common.of_square = static_cast<float>(1.0 - beta_2);
  common.inverse_root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta_2, count)));
  common.epsilon = static_cast<float>(epsilon);
  std::vector<isa::AdamStep> steps(static_cast<std::size_t>(x.rows), common);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const double rate = value_at(rates, i);
    steps[i].kept = static_cast<float>(1.0 - rate * value_at(decays, i));
    steps[i].size = static_cast<float>(rate / correction);
  }
  const AdamMatrices matrices = {{floats(weights), floats(first), floats(second),
                                  largest ? floats(*largest) : nullptr, floats(gradients)},
                                 x.rows,
                                 x.columns};
  py::gil_scoped_release release;
  adam(matrices, steps.data(), threads);
}

}  // namespace

void register_adam(py::module_& module) {
  module.def("adam", &adam_of, py::arg("weights"), py::arg("gradients"), py::arg("first"),
             py::arg("second"), py::arg("largest"), py::arg("rates"), py::arg("decays"),
             py::arg("step"), py::arg("beta_1"), py::arg("beta_2"), py::arg("epsilon"),
             py::arg("threads"), "A step of Adam, or of AMSGrad where largest is given.");
}

}  // namespace bertft
