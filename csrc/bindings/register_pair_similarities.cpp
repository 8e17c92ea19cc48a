#include "bindings/view.h"
#include "kernels/pair_similarities.h"
#include "kernels/rank_correlation.h"

namespace py = pybind11;

namespace bertft {
namespace {

PairedRows paired(const Checker& check, const View& rows, const View& offsets, double scale) {
  const Matrix x = check.matrix(rows, "rows");
  const DType dtype = x.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  check.contiguous(rows, "rows", dtype, {x.rows, x.columns});
  check.contiguous(offsets, "offsets", DType::kFloat64, {x.rows});
  return {x, reinterpret_cast<const double*>(offsets.address), scale};
}

py::tuple sum_pairs_of(const View& x, const View& x_offsets, double x_scale, const View& y,
                       const View& y_offsets, double y_scale, int threads) {
  const Checker check{"sum_pairs"};
  const PairedRows a = paired(check, x, x_offsets, x_scale);
  const PairedRows b = paired(check, y, y_offsets, y_scale);
  if (a.rows.rows != b.rows.rows || a.rows.dtype != b.rows.dtype) {
    check.fail("rows must have one number and type on both sides, got " +
               std::to_string(a.rows.rows) + " and " + std::to_string(b.rows.rows) +
               " rows; pass the same positions, and convert one.");
  }
  check.threads(threads);
  PairSums sums;
  {
    py::gil_scoped_release release;
    sums = sum_pairs(a, b, threads);
  }
  return py::make_tuple(sums.x, sums.y, sums.xx, sums.yy, sums.xy);
}

void condense_to(const View& rows, const View& offsets, double scale, const View& condensed,
                 int threads) {
  const Checker check{"condense"};
  const PairedRows x = paired(check, rows, offsets, scale);
  const std::int64_t n = x.rows.rows;
  check.contiguous(condensed, "condensed", x.rows.dtype,
                   {n * std::max<std::int64_t>(n - 1, 0) / 2});
  check.disjoint({{&condensed, "condensed"}}, {{&rows, "rows"}, {&offsets, "offsets"}});
  check.threads(threads);
  py::gil_scoped_release release;
  condense(x, reinterpret_cast<void*>(condensed.address), threads);
}

double rank_correlation_of(const View& x, const View& y, const std::string& kind, int threads) {
  const Checker check{"rank_correlation"};
  if (kind != "spearman" && kind != "kendall") {
    check.fail("kind must be spearman or kendall, got " + kind + "; pass one of them.");
  }
  const DType dtype = x.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const std::int64_t count = x.shape[0];
  check.contiguous(x, "x", dtype, {count});
  check.contiguous(y, "y", dtype, {count});
  if (count < 2 || count > std::int64_t{1} << 31) {
    check.fail("x must have 2 to 2^31 values, got " + std::to_string(count) +
               "; take a sample of the rows.");
  }
  check.threads(threads);
  py::gil_scoped_release release;
  const auto correlate = [&](const auto* a, const auto* b) {
    return kind == "spearman" ? spearman(a, b, count, threads) : kendall(a, b, count, threads);
  };
  if (dtype == DType::kFloat64) {
    return correlate(reinterpret_cast<const double*>(x.address),
                     reinterpret_cast<const double*>(y.address));
  }
  return correlate(reinterpret_cast<const float*>(x.address),
                   reinterpret_cast<const float*>(y.address));
}

}  // namespace

void register_pair_similarities(py::module_& module) {
  module.def("sum_pairs", &sum_pairs_of, py::arg("x"), py::arg("x_offsets"), py::arg("x_scale"),
             py::arg("y"), py::arg("y_offsets"), py::arg("y_scale"), py::arg("threads"),
             "Sums over pairs of rows of the similarities of two sides: x, y, xx, yy and xy.");
  module.def("condense", &condense_to, py::arg("rows"), py::arg("offsets"), py::arg("scale"),
             py::arg("condensed"), py::arg("threads"),
             "Write the similarities of all pairs of rows i < j.");
  module.def("rank_correlation", &rank_correlation_of, py::arg("x"), py::arg("y"), py::arg("kind"),
             py::arg("threads"),
             "Spearman's rho or Kendall's tau-a of two vectors of finite values.");
}

}  // namespace bertft
