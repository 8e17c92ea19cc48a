// How tensors cross the boundary: an address with dtype, shape and strides, and their checks.
//
// No array library's ABI is involved; the caller keeps the memory alive during the call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "kernels/cross_moments.h"

namespace bertft {

struct View {
  std::uintptr_t address;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;

  // Bytes [first, last) that the view touches.
  std::uintptr_t first() const { return address; }
  std::uintptr_t last() const;
};

template <class T>
T* as(const View& view) {
  return reinterpret_cast<T*>(view.address);
}

// Each throws std::invalid_argument in the house grammar, "[function] name must ...".
struct Checker {
  std::string function;

  Matrix matrix(const View& view, const char* name) const;
  // A contiguous array of exactly this shape and type, aligned to its elements.
  void contiguous(const View& view, const char* name, DType dtype,
                  std::initializer_list<std::int64_t> shape) const;
  // No output overlaps another output or an input; inputs may overlap each other.
  struct Named {
    const View* view;
    const char* name;
  };
  void disjoint(std::vector<Named> outputs, const std::vector<Named>& inputs) const;
  int threads(int threads) const;
  [[noreturn]] void fail(const std::string& text) const;
};

void register_isa(pybind11::module_& module);
void register_view(pybind11::module_& module);
void register_row_pooling(pybind11::module_& module);
void register_cross_moments(pybind11::module_& module);
void register_pair_similarities(pybind11::module_& module);
void register_spectra(pybind11::module_& module);
void register_multiply(pybind11::module_& module);
void register_probe_losses(pybind11::module_& module);
void register_span_attention(pybind11::module_& module);
void register_edge_probes(pybind11::module_& module);
void register_hidden_units(pybind11::module_& module);
void register_structural_losses(pybind11::module_& module);
void register_adam(pybind11::module_& module);

}  // namespace bertft
