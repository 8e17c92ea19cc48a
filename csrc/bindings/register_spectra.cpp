#include <pybind11/stl.h>

#include "bindings/view.h"
#include "kernels/spectra.h"

namespace py = pybind11;

namespace bertft {
namespace {

using Views = std::vector<View>;

double* doubles(const View& view) { return reinterpret_cast<double*>(view.address); }

// A contiguous float64 matrix that LAPACK's integers can count.
Matrix matrix_of(const Checker& check, const View& view) {
  const Matrix x = check.matrix(view, "matrix");
  check.contiguous(view, "matrix", DType::kFloat64, {x.rows, x.columns});
  if (std::max(x.rows, x.columns) > 1 << 14) {
    check.fail("matrix must have at most 16384 rows and columns, got " +
               std::to_string(std::max(x.rows, x.columns)) + "; reduce it first.");
  }
  return x;
}

void require_outputs(const Checker& check, const Views& matrices, const Views& values,
                     const Views& vectors, const char* name) {
  if (values.size() != matrices.size() || (!vectors.empty() && vectors.size() != matrices.size())) {
    check.fail("values and " + std::string(name) + " must be one for each of " +
               std::to_string(matrices.size()) + " matrices, got " + std::to_string(values.size()) +
               " and " + std::to_string(vectors.size()) + "; allocate them so.");
  }
}

std::int64_t eigh(const Views& matrices, const Views& values, const Views& vectors, int threads,
                  std::uintptr_t dsyevd) {
  const Checker check{"eigh"};
  require_outputs(check, matrices, values, vectors, "vectors");
  std::vector<SymmetricProblem> problems;
  std::vector<Checker::Named> outputs, inputs;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const Matrix x = matrix_of(check, matrices[i]);
    if (x.rows != x.columns) {
      check.fail("matrix must be square, got " + std::to_string(x.rows) + " by " +
                 std::to_string(x.columns) + "; use svd.");
    }
    check.contiguous(values[i], "values", DType::kFloat64, {x.columns});
    inputs.push_back({&matrices[i], "matrix"});
    outputs.push_back({&values[i], "values"});
    if (!vectors.empty()) {
      check.contiguous(vectors[i], "vectors", DType::kFloat64, {x.columns, x.columns});
      outputs.push_back({&vectors[i], "vectors"});
    }
    problems.push_back({doubles(matrices[i]), x.columns, doubles(values[i]),
                        vectors.empty() ? nullptr : doubles(vectors[i])});
  }
  check.disjoint(outputs, inputs);
  check.threads(threads);
  py::gil_scoped_release release;
  return solve(problems, reinterpret_cast<Dsyevd>(dsyevd), threads);
}

std::int64_t svd(const Views& matrices, const Views& values, const Views& left, const Views& right,
                 int threads, std::uintptr_t dgesdd) {
  const Checker check{"svd"};
  require_outputs(check, matrices, values, left, "left");
  require_outputs(check, matrices, values, right, "right");
  if (left.empty() != right.empty()) {
    check.fail("left and right must be given both or neither, got " + std::to_string(left.size()) +
               " and " + std::to_string(right.size()) + "; allocate the other.");
  }
  std::vector<SingularProblem> problems;
  std::vector<Checker::Named> outputs, inputs;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const Matrix x = matrix_of(check, matrices[i]);
    const std::int64_t least = std::min(x.rows, x.columns);
    check.contiguous(values[i], "values", DType::kFloat64, {least});
    inputs.push_back({&matrices[i], "matrix"});
    outputs.push_back({&values[i], "values"});
    problems.push_back(
        {doubles(matrices[i]), x.rows, x.columns, doubles(values[i]), nullptr, nullptr});
    if (left.empty()) continue;
    check.contiguous(left[i], "left", DType::kFloat64, {x.rows, least});
    check.contiguous(right[i], "right", DType::kFloat64, {least, x.columns});
    outputs.insert(outputs.end(), {{&left[i], "left"}, {&right[i], "right"}});
    problems.back().left = doubles(left[i]);
    problems.back().right = doubles(right[i]);
  }
  check.disjoint(outputs, inputs);
  check.threads(threads);
  py::gil_scoped_release release;
  return solve(problems, reinterpret_cast<Dgesdd>(dgesdd), threads);
}

}  // namespace

void register_spectra(py::module_& module) {
  module.def(
      "eigh", &eigh, py::arg("matrices"), py::arg("values"), py::arg("vectors"), py::arg("threads"),
      py::arg("dsyevd"),
      "Eigenvalues, and vectors as rows, of symmetric matrices; the first that failed or -1.");
  module.def("svd", &svd, py::arg("matrices"), py::arg("values"), py::arg("left"), py::arg("right"),
             py::arg("threads"), py::arg("dgesdd"),
             "Singular values, and vectors, of matrices; the first that failed or -1.");
}

}  // namespace bertft
