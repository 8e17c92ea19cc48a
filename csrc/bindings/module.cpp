#include "bindings/view.h"
#include "isa/table.h"

PYBIND11_MODULE(_native, module) {
  module.doc() = "The compiled core; bertft.ops.native is its only caller.";
  bertft::register_view(module);
  bertft::register_row_pooling(module);
  bertft::register_cross_moments(module);
  bertft::register_pair_similarities(module);
  bertft::register_spectra(module);
  bertft::register_multiply(module);
  bertft::register_probe_losses(module);
  bertft::register_span_attention(module);
  bertft::register_edge_probes(module);
  bertft::register_hidden_units(module);
  bertft::register_structural_losses(module);
  bertft::register_adam(module);
  bertft::register_isa(module);
}
