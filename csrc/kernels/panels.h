// The panel kernels of the active instruction set by element type.
#pragma once

#include "isa/table.h"

namespace bertft {

template <class T>
const isa::PanelKernels<T>& panel_kernels();
template <>
inline const isa::PanelKernels<float>& panel_kernels<float>() {
  return isa::active().narrow;
}
template <>
inline const isa::PanelKernels<double>& panel_kernels<double>() {
  return isa::active().wide;
}

template <class T>
const isa::ProductKernels<T>& product_kernels();
template <>
inline const isa::ProductKernels<float>& product_kernels<float>() {
  return isa::active().narrow_products;
}
template <>
inline const isa::ProductKernels<double>& product_kernels<double>() {
  return isa::active().wide_products;
}

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace bertft
