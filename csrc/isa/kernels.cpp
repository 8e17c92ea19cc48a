// Compiled once per instruction set, with BERTFT_ISA the set's name, BERTFT_VECTOR_BYTES its
// register width and BERTFT_TILE_HEIGHT the rows of a register tile.
#include "isa/adam.h"
#include "isa/hidden.h"
#include "isa/losses.h"
#include "isa/packing.h"
#include "isa/pooling.h"
#include "isa/products.h"
#include "isa/relative.h"
#include "isa/spans.h"
#include "isa/structure.h"
#include "isa/sums.h"
#include "isa/table.h"
#include "isa/tiles.h"

#define BERTFT_CONCAT_(a, b) a##b
#define BERTFT_CONCAT(a, b) BERTFT_CONCAT_(a, b)
#define BERTFT_STRING_(name) #name
#define BERTFT_STRING(name) BERTFT_STRING_(name)

namespace bertft::isa {
namespace {

template <class T>
constexpr PanelKernels<T> panel_kernels() {
  static_assert(kPanelWidth<T> % kTileHeight == 0 && kPanelWidth<T> <= kWidestPanel);
  return {Vector<T>::kSize, kPanelWidth<T>, kTileHeight,     widen_row<T>, size_of_row<T>,
          pack_rows<T>,     add_product<T>, add_weighted<T>, distance<T>};
}

template <class T>
constexpr ProductKernels<T> product_kernels() {
  return {multiply_tile<T>, pack_into<T, kPanelWidth<T>>, pack_into<T, kTileHeight>};
}

constexpr Table kTable = {BERTFT_STRING(BERTFT_ISA),
                          panel_kernels<float>(),
                          panel_kernels<double>(),
                          product_kernels<float>(),
                          product_kernels<double>(),
                          pool_any_row,
                          softmax_logits,
                          sigmoid_logits,
                          subtract_last,
                          balance_last,
                          sum_of_row,
                          sum_of_squares,
                          distance_rows,
                          distance_scratch,
                          depth_rows,
                          attend_span,
                          slopes_of_span,
                          add_span_gradient,
                          tanh_norm_row,
                          tanh_norm_row_gradient,
                          adam_row};

}  // namespace

const Table& BERTFT_CONCAT(BERTFT_ISA, _table)();
const Table& BERTFT_CONCAT(BERTFT_ISA, _table)() { return kTable; }

}  // namespace bertft::isa
