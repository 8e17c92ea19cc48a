#include <pybind11/stl.h>

#include <optional>
#include <tuple>

#include "bindings/view.h"
#include "kernels/cross_moments.h"

namespace py = pybind11;

namespace bertft {
namespace {

using Views = std::vector<View>;
// row_map, origins, totals, squares, and for every pair product, left, right and weight.
using MapOfViews = std::tuple<std::string, Views, Views, Views, std::vector<std::array<View, 4>>>;
// What is wrong with a row, and which: side and number.
using Refusal = std::optional<std::tuple<std::string, std::int64_t, std::int64_t>>;

double* doubles(const View& view) { return reinterpret_cast<double*>(view.address); }

isa::RowMap row_map_of(const std::string& name, const Checker& check) {
  if (name == "raw") return isa::RowMap::kRaw;
  if (name == "unit") return isa::RowMap::kUnit;
  if (name == "centered_unit") return isa::RowMap::kCenteredUnit;
  check.fail("row_map must be raw, unit or centered_unit, got " + name + "; pass one of them.");
}

std::vector<Matrix> sides_of(const Views& rows, const Checker& check) {
  std::vector<Matrix> sides;
  for (const View& view : rows) {
    sides.push_back(check.matrix(view, "rows"));
    const Matrix &x = sides.back(), &first = sides.front();
    if (x.rows != first.rows || (x.dtype == DType::kFloat64) != (first.dtype == DType::kFloat64)) {
      check.fail("rows must have one number on every side and all be float64 or none, got " +
                 std::to_string(first.rows) + " and " + std::to_string(x.rows) +
                 "; pass the same positions, and convert one.");
    }
  }
  return sides;
}

void require_length(const Checker& check, const char* name, std::size_t length,
                    std::size_t wanted) {
  if (length == wanted) return;
  check.fail(std::string(name) + " must have " + std::to_string(wanted) + " entries, got " +
             std::to_string(length) + "; pass one for each.");
}

MappedSums sums_of(const MapOfViews& map, const std::vector<Matrix>& sides,
                   const std::vector<std::pair<int, int>>& pairs, const Checker& check,
                   std::vector<Checker::Named>& outputs, std::vector<Checker::Named>& inputs) {
  const auto& [row_map, origins, totals, squares, crosses] = map;
  MappedSums sums{row_map_of(row_map, check), {}, {}, {}, {}};
  require_length(check, "origins", origins.size(), sides.size());
  require_length(check, "totals", totals.size(), sides.size());
  require_length(check, "squares", squares.size(), sides.size());
  require_length(check, "crosses", crosses.size(), pairs.size());
  for (std::size_t side = 0; side < sides.size(); ++side) {
    check.contiguous(origins[side], "origin", DType::kFloat64, {sides[side].columns});
    check.contiguous(totals[side], "total", DType::kFloat64, {sides[side].columns});
    check.contiguous(squares[side], "squares", DType::kFloat64, {1});
    inputs.push_back({&origins[side], "origin"});
    outputs.insert(outputs.end(), {{&totals[side], "total"}, {&squares[side], "squares"}});
    sums.origins.push_back(doubles(origins[side]));
    sums.totals.push_back(doubles(totals[side]));
    sums.squares.push_back(doubles(squares[side]));
  }
  for (std::size_t pair = 0; pair < pairs.size(); ++pair) {
    const std::int64_t dx = sides[pairs[pair].first].columns;
    const std::int64_t dy = sides[pairs[pair].second].columns;
    const auto& [product, left, right, weight] = crosses[pair];
    check.contiguous(product, "product", DType::kFloat64, {dx, dy});
    check.contiguous(left, "left", DType::kFloat64, {dx});
    check.contiguous(right, "right", DType::kFloat64, {dy});
    check.contiguous(weight, "weight", DType::kFloat64, {1});
    outputs.insert(outputs.end(), {{&product, "product"}, {&left, "left"}});
    outputs.insert(outputs.end(), {{&right, "right"}, {&weight, "weight"}});
    sums.crosses.push_back({doubles(product), doubles(left), doubles(right), doubles(weight)});
  }
  return sums;
}

Refusal accumulate_views(const Views& rows, const std::vector<std::pair<int, int>>& pairs,
                         const std::vector<MapOfViews>& maps, const View& norms,
                         const View& distances, int threads) {
  const Checker check{"accumulate"};
  const std::vector<Matrix> sides = sides_of(rows, check);
  const auto count = static_cast<std::int64_t>(sides.size());
  for (const auto& [a, b] : pairs) {
    if (a < 0 || a >= count || b < 0 || b >= count) {
      check.fail("pairs must be of sides below " + std::to_string(count) + ", got (" +
                 std::to_string(a) + ", " + std::to_string(b) + "); number them from 0.");
    }
  }
  check.contiguous(norms, "norms", DType::kFloat64, {count});
  check.contiguous(distances, "distances", DType::kFloat64,
                   {static_cast<std::int64_t>(pairs.size())});
  std::vector<Checker::Named> outputs = {{&norms, "norms"}, {&distances, "distances"}};
  std::vector<Checker::Named> inputs;
  for (const View& view : rows) inputs.push_back({&view, "rows"});
  Moments moments{sides, pairs, {}, {}, {}};
  for (std::size_t i = 0; i < sides.size(); ++i) moments.norms.push_back(doubles(norms) + i);
  for (std::size_t i = 0; i < pairs.size(); ++i)
    moments.distances.push_back(doubles(distances) + i);
  for (const MapOfViews& map : maps) {
    moments.maps.push_back(sums_of(map, sides, pairs, check, outputs, inputs));
  }
  check.disjoint(outputs, inputs);
  check.threads(threads);
  FirstFault fault;
  {
    py::gil_scoped_release release;
    fault = accumulate(moments, threads);
  }
  if (fault.fault == Fault::kNone) return std::nullopt;
  const char* what = fault.fault == Fault::kNotFinite ? "not finite"
                     : fault.fault == Fault::kZero    ? "zero"
                                                      : "constant";
  return std::tuple(std::string(what), fault.side, fault.row);
}

}  // namespace

void register_cross_moments(py::module_& module) {
  module.def("accumulate", &accumulate_views, py::arg("rows"), py::arg("pairs"), py::arg("maps"),
             py::arg("norms"), py::arg("distances"), py::arg("threads"),
             "Add a block of rows to all sums, or return the first row that cannot be added.");
}

}  // namespace bertft
