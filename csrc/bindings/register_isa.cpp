#include "bindings/view.h"
#include "isa/table.h"

namespace py = pybind11;

namespace bertft {
namespace {

py::tuple available() {
  py::list names;
  for (const char* const* name = isa::available(); *name != nullptr; ++name) names.append(*name);
  return py::tuple(names);
}

void select(const std::string& name) {
  if (isa::select(name.c_str())) return;
  Checker{"set_isa"}.fail("name must be one of " + std::string(py::str(available())) + ", got " +
                          name + "; pass one that this machine runs.");
}

}  // namespace

void register_isa(py::module_& module) {
  module.def(
      "isa", [] { return isa::active().name; }, "The instruction set that the kernels run on.");
  module.def("available_isas", &available, "The sets that this machine runs, the widest first.");
  module.def("set_isa", &select, py::arg("name"), "Run the kernels on another set.");
}

}  // namespace bertft
