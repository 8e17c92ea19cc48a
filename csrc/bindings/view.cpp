#include "bindings/view.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>

namespace py = pybind11;

namespace bertft {
namespace {

constexpr const char* kNames[] = {"float64", "float32", "float16", "bfloat16", "int64", "uint8"};

std::string name_of(DType dtype) { return kNames[static_cast<int>(dtype)]; }

DType dtype_of(const std::string& name) {
  for (int code = 0; code < 6; ++code) {
    if (name == kNames[code]) return static_cast<DType>(code);
  }
  throw std::invalid_argument(
      "[View] dtype must be float64, float32, float16, bfloat16, int64 or uint8, got " + name +
      "; convert the array first.");
}

template <class Range>
std::string text_of(const Range& shape) {
  std::string text = "(";
  for (std::int64_t size : shape) text += std::to_string(size) + ", ";
  if (text.size() > 1) text.resize(text.size() - 2);
  return text + ")";
}

View make_view(std::uintptr_t address, const std::string& dtype, std::vector<std::int64_t> shape,
               std::vector<std::int64_t> strides) {
  const std::string got = ", got shape " + text_of(shape) + " and strides " + text_of(strides);
  if (shape.size() != strides.size() || shape.empty() || shape.size() > 3) {
    throw std::invalid_argument("[View] shape and strides must have one to three entries each" +
                                got + "; pass a vector, a matrix or several.");
  }
  bool empty = false;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] < 0 || strides[axis] < 0) {
      throw std::invalid_argument("[View] shape and strides must not be negative" + got +
                                  "; pass a contiguous copy.");
    }
    empty |= shape[axis] == 0;
  }
  View view{address, dtype_of(dtype), std::move(shape), std::move(strides)};
  if (!empty && (address == 0 || address % static_cast<std::uintptr_t>(size_of(view.dtype)) != 0)) {
    throw std::invalid_argument("[View] address must be aligned to its elements, got " +
                                std::to_string(address) + "; pass a contiguous copy.");
  }
  return view;
}

}  // namespace

std::uintptr_t View::last() const {
  std::int64_t extent = 1;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] == 0) return address;
    extent += (shape[axis] - 1) * strides[axis];
  }
  return address + static_cast<std::uintptr_t>(extent * size_of(dtype));
}

void Checker::fail(const std::string& text) const {
  throw std::invalid_argument("[" + function + "] " + text);
}

Matrix Checker::matrix(const View& view, const char* name) const {
  if (view.shape.size() != 2 || view.dtype == DType::kInt64 || view.dtype == DType::kUInt8) {
    fail(std::string(name) + " must be a floating-point (n, d) array, got " + name_of(view.dtype) +
         " of shape " + text_of(view.shape) + "; reshape or convert it.");
  }
  return {reinterpret_cast<const void*>(view.address),
          view.dtype,
          view.shape[0],
          view.shape[1],
          view.strides[0],
          view.strides[1]};
}

void Checker::contiguous(const View& view, const char* name, DType dtype,
                         std::initializer_list<std::int64_t> shape) const {
  if (view.dtype != dtype ||
      !std::equal(shape.begin(), shape.end(), view.shape.begin(), view.shape.end())) {
    fail(std::string(name) + " must be " + name_of(dtype) + " of shape " + text_of(shape) +
         ", got " + name_of(view.dtype) + " of shape " + text_of(view.shape) + "; allocate it so.");
  }
  if (view.first() == view.last()) return;
  std::int64_t stride = 1;
  for (std::size_t axis = view.shape.size(); axis-- > 0;) {
    if (view.shape[axis] > 1 && view.strides[axis] != stride) {
      fail(std::string(name) + " must be contiguous, got strides " + text_of(view.strides) +
           "; pass a contiguous copy.");
    }
    stride *= view.shape[axis];
  }
}

void Checker::disjoint(std::vector<Named> outputs, const std::vector<Named>& inputs) const {
  const auto refuse = [&](const Named& output, const Named& other) {
    fail(std::string(output.name) + " must not overlap " + other.name + ", got shared memory at " +
         std::to_string(std::max(output.view->first(), other.view->first())) +
         "; pass separate arrays.");
  };
  // In the order of their addresses, outputs that overlap none overlap no neighbor.
  std::erase_if(outputs, [](const Named& o) { return o.view->first() == o.view->last(); });
  std::sort(outputs.begin(), outputs.end(),
            [](const Named& x, const Named& y) { return x.view->first() < y.view->first(); });
  for (std::size_t i = 1; i < outputs.size(); ++i) {
    if (outputs[i].view->first() < outputs[i - 1].view->last()) refuse(outputs[i], outputs[i - 1]);
  }
  for (const Named& input : inputs) {
    if (input.view->first() == input.view->last()) continue;
    const auto after = std::partition_point(outputs.begin(), outputs.end(), [&](const Named& o) {
      return o.view->last() <= input.view->first();
    });
    if (after != outputs.end() && after->view->first() < input.view->last()) refuse(*after, input);
  }
}

int Checker::threads(int threads) const {
  if (threads < 1) fail("threads must be at least 1, got " + std::to_string(threads) + "; pass 1.");
  return threads;
}

void register_view(py::module_& module) {
  py::class_<View>(module, "View")
      .def(py::init(&make_view), py::arg("address"), py::arg("dtype"), py::arg("shape"),
           py::arg("strides"))
      .def_property_readonly("dtype", [](const View& view) { return name_of(view.dtype); })
      .def_readonly("shape", &View::shape)
      .def_readonly("strides", &View::strides);
}

}  // namespace bertft
