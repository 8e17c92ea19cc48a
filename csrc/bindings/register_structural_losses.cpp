#include "bindings/view.h"
#include "kernels/structural_losses.h"

namespace py = pybind11;

namespace bertft {
namespace {

ProjectedSentences sentences_of(const Checker& check, const View& projected, const View& offsets,
                                const View& losses) {
  const Matrix x = check.matrix(projected, "projected");
  const std::int64_t probes = losses.shape[0], sentences = offsets.shape[0] - 1;
  check.contiguous(losses, "losses", DType::kFloat64, {probes});
  check.contiguous(offsets, "offsets", DType::kInt64, {sentences + 1});
  const std::int64_t rank = probes > 0 ? x.columns / probes : 0;
  if (x.dtype != DType::kFloat32 || rank < 1 || rank * probes != x.columns ||
      (x.columns > 1 && x.column_stride != 1) || (x.rows > 1 && x.row_stride < x.columns)) {
    check.fail("projected must be float32 rows of as many columns for each of " +
               std::to_string(probes) + " probes, contiguous and apart, got " +
               std::to_string(x.columns) + " columns and strides (" + std::to_string(x.row_stride) +
               ", " + std::to_string(x.column_stride) + "); allocate it so.");
  }
  const auto* places = reinterpret_cast<const std::int64_t*>(offsets.address);
  bool rise = sentences >= 0 && places[0] == 0 && places[sentences] == x.rows;
  for (std::int64_t s = 0; rise && s < sentences; ++s) rise = places[s] < places[s + 1];
  if (!rise) {
    check.fail("offsets must rise from 0 to the " + std::to_string(x.rows) +
               " rows of projected, got " + std::to_string(offsets.shape[0]) +
               " that do not; give every sentence its rows.");
  }
  return {
      reinterpret_cast<float*>(projected.address), x.row_stride, places, sentences, probes, rank};
}

using Gradient = bool (*)(const ProjectedSentences&, const float*, double*, int);

bool run(const Checker& check, Gradient gradient, const ProjectedSentences& x, std::int64_t values,
         const View& projected, const View& offsets, const View& gold, const View& losses,
         int threads) {
  check.contiguous(gold, "gold", DType::kFloat32, {values});
  check.disjoint({{&projected, "projected"}, {&losses, "losses"}},
                 {{&offsets, "offsets"}, {&gold, "gold"}});
  check.threads(threads);
  py::gil_scoped_release release;
  return gradient(x, reinterpret_cast<const float*>(gold.address),
                  reinterpret_cast<double*>(losses.address), threads);
}

bool distance_gradient_of(const View& projected, const View& offsets, const View& gold,
                          const View& losses, int threads) {
  const Checker check{"distance_gradient"};
  const ProjectedSentences x = sentences_of(check, projected, offsets, losses);
  std::int64_t values = 0;
  for (std::int64_t s = 0; s < x.sentences; ++s) {
    const std::int64_t words = x.offsets[s + 1] - x.offsets[s];
    values += words * words;
  }
  return run(check, &distance_gradient, x, values, projected, offsets, gold, losses, threads);
}

bool depth_gradient_of(const View& projected, const View& offsets, const View& gold,
                       const View& losses, int threads) {
  const Checker check{"depth_gradient"};
  const ProjectedSentences x = sentences_of(check, projected, offsets, losses);
  return run(check, &depth_gradient, x, x.offsets[x.sentences], projected, offsets, gold, losses,
             threads);
}

}  // namespace

void register_structural_losses(py::module_& module) {
  module.def("distance_gradient", &distance_gradient_of, py::arg("projected"), py::arg("offsets"),
             py::arg("gold"), py::arg("losses"), py::arg("threads"),
             "Projected rows to gradients of distance losses; whether all losses are finite.");
  module.def("depth_gradient", &depth_gradient_of, py::arg("projected"), py::arg("offsets"),
             py::arg("gold"), py::arg("losses"), py::arg("threads"),
             "Projected rows to gradients of depth losses; whether all losses are finite.");
}

}  // namespace bertft
