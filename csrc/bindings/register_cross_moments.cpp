#include <memory>
#include <stdexcept>

#include "bindings/view.h"
#include "kernels/cross_moments.h"

namespace py = pybind11;

namespace bertft {
namespace {

double* doubles(const View& view) { return reinterpret_cast<double*>(view.address); }

isa::RowMap row_map_of(const std::string& name, const Checker& check) {
  if (name == "raw") return isa::RowMap::kRaw;
  if (name == "unit") return isa::RowMap::kUnit;
  if (name == "centered_unit") return isa::RowMap::kCenteredUnit;
  check.fail("row_map must be raw, unit or centered_unit, got " + name + "; pass one of them.");
}

std::unique_ptr<Block> make_block(const View& x, const View& origin, const std::string& row_map,
                                  int threads) {
  const Checker check{"Block"};
  const Matrix rows = check.matrix(x, "x");
  check.contiguous(origin, "origin", DType::kFloat64, {rows.columns});
  const isa::RowMap map = row_map_of(row_map, check);
  check.threads(threads);
  py::gil_scoped_release release;
  return std::make_unique<Block>(rows, doubles(origin), map, threads);
}

void add_total_to(const Block& x, const View& total, int threads) {
  const Checker check{"add_total"};
  check.contiguous(total, "total", DType::kFloat64, {x.columns()});
  check.threads(threads);
  py::gil_scoped_release release;
  add_total(x, doubles(total), threads);
}

void add_cross_to(const Block& x, const Block& y, const View& product, const View& left,
                  const View& right, const View& weight, int threads) {
  const Checker check{"add_cross"};
  if (x.rows() != y.rows() || x.is_wide() != y.is_wide()) {
    check.fail("x and y must have the same rows and both be float64 or neither, got " +
               std::to_string(x.rows()) + " and " + std::to_string(y.rows()) +
               " rows; pack them from the same positions and convert one.");
  }
  check.contiguous(product, "product", DType::kFloat64, {x.columns(), y.columns()});
  check.contiguous(left, "left", DType::kFloat64, {x.columns()});
  check.contiguous(right, "right", DType::kFloat64, {y.columns()});
  check.contiguous(weight, "weight", DType::kFloat64, {1});
  const View* outputs[] = {&product, &left, &right, &weight};
  const char* names[] = {"product", "left", "right", "weight"};
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < i; ++j) check.disjoint(*outputs[i], names[i], *outputs[j], names[j]);
  }
  check.threads(threads);
  py::gil_scoped_release release;
  add_cross(x, y, doubles(product), doubles(left), doubles(right), doubles(weight), threads);
}

}  // namespace

void register_cross_moments(py::module_& module) {
  py::class_<Block>(module, "Block",
                    "A block of rows, mapped, shifted by an origin and packed for products.")
      .def(py::init(&make_block), py::arg("x"), py::arg("origin"), py::arg("row_map"),
           py::arg("threads"))
      .def_property_readonly("rows", &Block::rows)
      .def_property_readonly("columns", &Block::columns);
  module.def("add_total", &add_total_to, py::arg("x"), py::arg("total"), py::arg("threads"),
             "Add the sum of the rows to total.");
  module.def("add_cross", &add_cross_to, py::arg("x"), py::arg("y"), py::arg("product"),
             py::arg("left"), py::arg("right"), py::arg("weight"), py::arg("threads"),
             "Add the products of two blocks, upper triangle only for a block with itself.");
}

}  // namespace bertft
