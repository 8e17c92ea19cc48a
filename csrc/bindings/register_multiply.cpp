#include "bindings/view.h"
#include "kernels/multiply.h"

namespace py = pybind11;

namespace bertft {
namespace {

void multiply_of(const View& a, const View& b, const View& out, int threads) {
  const Checker check{"multiply"};
  const Matrix left = check.matrix(a, "a"), right = check.matrix(b, "b");
  const Matrix product = check.matrix(out, "out");
  const bool is_wide = left.dtype == DType::kFloat64;
  if ((!is_wide && left.dtype != DType::kFloat32) || right.dtype != left.dtype ||
      product.dtype != left.dtype) {
    check.fail("a, b and out must be float32 or float64 alike, got others; convert them.");
  }
  if (left.columns != right.rows || product.rows != left.rows || product.columns != right.columns) {
    check.fail("shapes must be (m, k), (k, n) and (m, n), got a of " + std::to_string(left.rows) +
               " by " + std::to_string(left.columns) + ", b of " + std::to_string(right.rows) +
               " by " + std::to_string(right.columns) + " and out of " +
               std::to_string(product.rows) + " by " + std::to_string(product.columns) +
               "; transpose or allocate one.");
  }
  if ((product.columns > 1 && product.column_stride != 1) ||
      (product.rows > 1 && product.row_stride < product.columns)) {
    check.fail("out must have contiguous rows that do not overlap, got strides (" +
               std::to_string(product.row_stride) + ", " + std::to_string(product.column_stride) +
               "); allocate it so.");
  }
  check.disjoint({{&out, "out"}}, {{&a, "a"}, {&b, "b"}});
  check.threads(threads);
  py::gil_scoped_release release;
  multiply(left, right, reinterpret_cast<void*>(out.address), product.row_stride, threads);
}

}  // namespace

void register_multiply(py::module_& module) {
  module.def("multiply", &multiply_of, py::arg("a"), py::arg("b"), py::arg("out"),
             py::arg("threads"), "Write the product of two matrices of any strides to out.");
}

}  // namespace bertft
