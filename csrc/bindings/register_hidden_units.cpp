#include <pybind11/stl.h>

#include <optional>

#include "bindings/view.h"
#include "kernels/hidden_units.h"

namespace py = pybind11;

namespace bertft {
namespace {

HiddenUnits units_of(const Checker& check, const View& x, const char* name, const View& bias,
                     const View& gain, const View& shift, double epsilon,
                     const std::optional<View>& kept, double scale) {
  if (x.shape.size() != 3) {
    check.fail(std::string(name) + " must have three axes, got others; reshape it.");
  }
  const std::int64_t rows = x.shape[0], probes = x.shape[1], width = x.shape[2];
  check.contiguous(x, name, DType::kFloat32, {rows, probes, width});
  check.contiguous(bias, "bias", DType::kFloat32, {probes, width});
  check.contiguous(gain, "gain", DType::kFloat32, {probes, width});
  check.contiguous(shift, "shift", DType::kFloat32, {probes, width});
  if (kept) check.contiguous(*kept, "kept", DType::kUInt8, {rows, probes, width});
  return {rows,
          probes,
          width,
          as<const float>(bias),
          as<const float>(gain),
          as<const float>(shift),
          static_cast<float>(epsilon),
          kept ? as<const std::uint8_t>(*kept) : nullptr,
          static_cast<float>(scale)};
}

void tanh_norm_of(const View& x, const View& bias, const View& gain, const View& shift,
                  double epsilon, const std::optional<View>& kept, double scale, const View& out,
                  int threads) {
  const Checker check{"tanh_norm"};
  const HiddenUnits units = units_of(check, x, "x", bias, gain, shift, epsilon, kept, scale);
  check.contiguous(out, "out", DType::kFloat32, {units.rows, units.probes, units.width});
  std::vector<Checker::Named> inputs = {{&bias, "bias"}, {&gain, "gain"}, {&shift, "shift"}};
  if (kept) inputs.push_back({&*kept, "kept"});
  check.disjoint({{&x, "x"}, {&out, "out"}}, inputs);
  check.threads(threads);
  py::gil_scoped_release release;
  tanh_norm(units, as<float>(x), as<float>(out), threads);
}

void tanh_norm_gradient_of(const View& hidden, const View& bias, const View& gain,
                           const View& shift, double epsilon, const std::optional<View>& kept,
                           double scale, const View& gradient, const View& of_bias,
                           const View& of_gain, const View& of_shift, int threads) {
  const Checker check{"tanh_norm_gradient"};
  const HiddenUnits units =
      units_of(check, hidden, "hidden", bias, gain, shift, epsilon, kept, scale);
  check.contiguous(gradient, "gradient", DType::kFloat32, {units.rows, units.probes, units.width});
  check.contiguous(of_bias, "of_bias", DType::kFloat32, {units.probes, units.width});
  check.contiguous(of_gain, "of_gain", DType::kFloat32, {units.probes, units.width});
  check.contiguous(of_shift, "of_shift", DType::kFloat32, {units.probes, units.width});
  std::vector<Checker::Named> inputs = {
      {&hidden, "hidden"}, {&bias, "bias"}, {&gain, "gain"}, {&shift, "shift"}};
  if (kept) inputs.push_back({&*kept, "kept"});
  check.disjoint({{&gradient, "gradient"},
                  {&of_bias, "of_bias"},
                  {&of_gain, "of_gain"},
                  {&of_shift, "of_shift"}},
                 inputs);
  check.threads(threads);
  py::gil_scoped_release release;
  tanh_norm_gradient(units, as<const float>(hidden), as<float>(gradient),
                     {as<float>(of_bias), as<float>(of_gain), as<float>(of_shift)}, threads);
}

}  // namespace

void register_hidden_units(py::module_& module) {
  module.def("tanh_norm", &tanh_norm_of, py::arg("x"), py::arg("bias"), py::arg("gain"),
             py::arg("shift"), py::arg("epsilon"), py::arg("kept"), py::arg("scale"),
             py::arg("out"), py::arg("threads"),
             "Turn sums into tanh, and write them normalized and dropped out.");
  module.def("tanh_norm_gradient", &tanh_norm_gradient_of, py::arg("hidden"), py::arg("bias"),
             py::arg("gain"), py::arg("shift"), py::arg("epsilon"), py::arg("kept"),
             py::arg("scale"), py::arg("gradient"), py::arg("of_bias"), py::arg("of_gain"),
             py::arg("of_shift"), py::arg("threads"),
             "Turn the gradient of what tanh_norm wrote into that of what it read.");
}

}  // namespace bertft
