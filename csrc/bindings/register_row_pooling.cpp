#include "bindings/view.h"
#include "kernels/row_pooling.h"

namespace py = pybind11;

namespace bertft {
namespace {

bool pool_rows_of(const View& x, const View& starts, const View& stops, const View& out,
                  int threads) {
  const Checker check{"pool_rows"};
  const Matrix rows = check.matrix(x, "x");
  const std::int64_t count = starts.shape[0];
  check.contiguous(starts, "starts", DType::kInt64, {count});
  check.contiguous(stops, "stops", DType::kInt64, {count});
  check.contiguous(out, "out", x.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32,
                   {count, rows.columns});
  check.disjoint({{&out, "out"}}, {{&x, "x"}, {&starts, "starts"}, {&stops, "stops"}});
  check.threads(threads);
  const auto* first = reinterpret_cast<const std::int64_t*>(starts.address);
  const auto* last = reinterpret_cast<const std::int64_t*>(stops.address);
  for (std::int64_t i = 0; i < count; ++i) {
    if (first[i] < 0 || first[i] >= last[i] || last[i] > rows.rows) {
      check.fail("runs must be non-empty and inside x of " + std::to_string(rows.rows) +
                 " rows, got [" + std::to_string(first[i]) + ", " + std::to_string(last[i]) +
                 ") at " + std::to_string(i) + "; drop it.");
    }
  }
  py::gil_scoped_release release;
  return pool_rows(rows, first, last, count, reinterpret_cast<void*>(out.address), threads);
}

}  // namespace

void register_row_pooling(py::module_& module) {
  module.def("pool_rows", &pool_rows_of, py::arg("x"), py::arg("starts"), py::arg("stops"),
             py::arg("out"), py::arg("threads"),
             "Write the mean of each run of rows to out; returns whether all of it is finite.");
}

}  // namespace bertft
