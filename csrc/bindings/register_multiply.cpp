#include "bindings/view.h"
#include "kernels/multiply.h"

namespace py = pybind11;

namespace bertft {
namespace {

// A matrix, or several of a shape.
Matrices matrices_of(const Checker& check, const View& view, const char* name) {
  if (view.shape.size() != 3) return {check.matrix(view, name), 1, 0};
  const View first = {
      view.address, view.dtype, {view.shape[1], view.shape[2]}, {view.strides[1], view.strides[2]}};
  return {check.matrix(first, name), view.shape[0], view.strides[0]};
}

// Whether rows of one product lie in another: it begins inside of a row, or after the last one.
bool overlap(const Matrices& x) {
  const Matrix& first = x.first;
  if (x.count < 2 || first.rows == 0 || first.columns == 0) return false;
  const bool is_beside =
      x.apart >= first.columns &&
      (first.rows == 1 || (x.count - 1) * x.apart + first.columns <= first.row_stride);
  return !is_beside && x.apart < (first.rows - 1) * first.row_stride + first.columns;
}

void multiply_of(const View& a, const View& b, const View& out, int threads) {
  const Checker check{"multiply"};
  const Matrices all_left = matrices_of(check, a, "a"), all_right = matrices_of(check, b, "b");
  const Matrices products = matrices_of(check, out, "out");
  const Matrix &left = all_left.first, &right = all_right.first, &product = products.first;
  if (all_left.count != products.count || all_right.count != products.count) {
    check.fail("a, b and out must be as many matrices, got " + std::to_string(all_left.count) +
               ", " + std::to_string(all_right.count) + " and " + std::to_string(products.count) +
               "; pass as many.");
  }
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
      (product.rows > 1 && product.row_stride < product.columns) || overlap(products)) {
    check.fail("out must have contiguous rows that do not overlap, got strides (" +
               std::to_string(product.row_stride) + ", " + std::to_string(product.column_stride) +
               ") of matrices " + std::to_string(products.apart) + " apart; allocate it so.");
  }
  check.disjoint({{&out, "out"}}, {{&a, "a"}, {&b, "b"}});
  check.threads(threads);
  py::gil_scoped_release release;
  multiply(all_left, all_right, products, threads);
}

}  // namespace

void register_multiply(py::module_& module) {
  module.def("multiply", &multiply_of, py::arg("a"), py::arg("b"), py::arg("out"),
             py::arg("threads"), "Write the products of matrices of any strides to out.");
}

}  // namespace bertft
