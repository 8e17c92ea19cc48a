#include <algorithm>

#include "bindings/view.h"
#include "kernels/probe_losses.h"

namespace py = pybind11;

namespace bertft {
namespace {

// Logits whose probes have at least one column each and together all of them.
isa::LogitRows logits_of(const Checker& check, const View& logits, const View& offsets) {
  const Matrix x = check.matrix(logits, "logits");
  check.contiguous(logits, "logits", DType::kFloat32, {x.rows, x.columns});
  const std::int64_t probes = offsets.shape[0] - 1;
  check.contiguous(offsets, "offsets", DType::kInt64, {probes + 1});
  const auto* columns = reinterpret_cast<const std::int64_t*>(offsets.address);
  bool rise = probes >= 0 && columns[0] == 0 && columns[probes] == x.columns;
  for (std::int64_t k = 0; rise && k < probes; ++k) rise = columns[k] < columns[k + 1];
  if (!rise) {
    check.fail("offsets must rise from 0 to the " + std::to_string(x.columns) +
               " columns of logits, got " + std::to_string(offsets.shape[0]) +
               " that do not; give every probe its columns.");
  }
  return {reinterpret_cast<float*>(logits.address), x.rows, x.columns, columns, probes};
}

std::string place(std::int64_t row, std::int64_t probe) {
  return " at row " + std::to_string(row) + " of probe " + std::to_string(probe);
}

void require_disjoint(const Checker& check, const View& logits, const View& offsets,
                      const View& targets, const View& losses) {
  check.disjoint({{&logits, "logits"}, {&losses, "losses"}},
                 {{&offsets, "offsets"}, {&targets, "targets"}});
}

bool softmax_gradient_of(const View& logits, const View& offsets, const View& targets,
                         const View& losses, int threads) {
  const Checker check{"softmax_gradient"};
  const isa::LogitRows x = logits_of(check, logits, offsets);
  check.contiguous(targets, "targets", DType::kInt64, {x.rows, x.probes});
  check.contiguous(losses, "losses", DType::kFloat64, {x.probes});
  require_disjoint(check, logits, offsets, targets, losses);
  check.threads(threads);
  const auto* target = reinterpret_cast<const std::int64_t*>(targets.address);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t k = 0; k < x.probes; ++k) {
      const std::int64_t got = target[i * x.probes + k], count = x.offsets[k + 1] - x.offsets[k];
      if (got < -1 || got >= count) {
        check.fail("targets must be -1 or below the " + std::to_string(count) +
                   " columns of their probe, got " + std::to_string(got) + place(i, k) +
                   "; check the labels.");
      }
    }
  }
  py::gil_scoped_release release;
  return softmax_gradient(x, target, reinterpret_cast<double*>(losses.address), threads);
}

bool sigmoid_gradient_of(const View& logits, const View& offsets, const View& targets,
                         const View& losses, int threads) {
  const Checker check{"sigmoid_gradient"};
  const isa::LogitRows x = logits_of(check, logits, offsets);
  check.contiguous(targets, "targets", DType::kUInt8, {x.rows, x.columns});
  check.contiguous(losses, "losses", DType::kFloat64, {x.probes});
  require_disjoint(check, logits, offsets, targets, losses);
  check.threads(threads);
  const auto* target = reinterpret_cast<const std::uint8_t*>(targets.address);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const std::uint8_t* row = target + i * x.columns;
    // One more than 255, 0 and 1 is 0, 1 and 2 in a byte; vectors have a maximum of bytes.
    std::uint8_t most = 0;
    for (std::int64_t j = 0; j < x.columns; ++j) {
      most = std::max(most, static_cast<std::uint8_t>(row[j] + 1));
    }
    if (most <= 2) continue;
    std::int64_t j = 0, k = 0;
    while (static_cast<std::uint8_t>(row[j] + 1) <= 2) ++j;
    while (x.offsets[k + 1] <= j) ++k;
    check.fail("targets must be 0, 1 or 255 for none, got " + std::to_string(row[j]) + place(i, k) +
               "; check the labels.");
  }
  py::gil_scoped_release release;
  return sigmoid_gradient(x, target, reinterpret_cast<double*>(losses.address), threads);
}

}  // namespace

void register_probe_losses(py::module_& module) {
  module.def("softmax_gradient", &softmax_gradient_of, py::arg("logits"), py::arg("offsets"),
             py::arg("targets"), py::arg("losses"), py::arg("threads"),
             "Logits of probes to gradients of softmax cross-entropies; whether all are finite.");
  module.def("sigmoid_gradient", &sigmoid_gradient_of, py::arg("logits"), py::arg("offsets"),
             py::arg("targets"), py::arg("losses"), py::arg("threads"),
             "Logits of probes to gradients of binary cross-entropies; whether all are finite.");
}

}  // namespace bertft
