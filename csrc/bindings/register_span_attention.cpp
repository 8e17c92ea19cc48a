#include "bindings/targets.h"
#include "bindings/view.h"
#include "kernels/span_attention.h"

namespace py = pybind11;

namespace bertft {
namespace {

AttendedSpans spans_of(const Checker& check, const View& x, const View& weight, const View& starts,
                       const View& stops) {
  if (x.shape.size() != 3) check.fail("x must have three axes, got others; reshape it.");
  check.contiguous(x, "x", DType::kFloat32, {x.shape[0], x.shape[1], x.shape[2]});
  check.contiguous(weight, "weight", DType::kFloat32, {x.shape[1], x.shape[2]});
  const std::int64_t rows = x.shape[0], spans = starts.shape[0];
  require_spans(check, starts, stops, spans, rows);
  return {as<const float>(x),
          as<const float>(weight),
          rows,
          x.shape[1],
          x.shape[2],
          as<const std::int64_t>(starts),
          as<const std::int64_t>(stops),
          spans};
}

void attend_spans_of(const View& x, const View& weight, const View& starts, const View& stops,
                     const View& out, const View& logsums, int threads) {
  const Checker check{"attend_spans"};
  const AttendedSpans spans = spans_of(check, x, weight, starts, stops);
  check.contiguous(out, "out", DType::kFloat32, {spans.spans, spans.probes, spans.columns});
  check.contiguous(logsums, "logsums", DType::kFloat32, {spans.spans, spans.probes});
  check.disjoint({{&out, "out"}, {&logsums, "logsums"}},
                 {{&x, "x"}, {&weight, "weight"}, {&starts, "starts"}, {&stops, "stops"}});
  check.threads(threads);
  py::gil_scoped_release release;
  attend_spans(spans, as<float>(out), as<float>(logsums), threads);
}

void attend_spans_gradient_of(const View& x, const View& weight, const View& starts,
                              const View& stops, const View& out, const View& logsums,
                              const View& gradient, const View& of_x, const View& of_weight,
                              int threads) {
  const Checker check{"attend_spans_gradient"};
  const AttendedSpans spans = spans_of(check, x, weight, starts, stops);
  check.contiguous(out, "out", DType::kFloat32, {spans.spans, spans.probes, spans.columns});
  check.contiguous(logsums, "logsums", DType::kFloat32, {spans.spans, spans.probes});
  check.contiguous(gradient, "gradient", DType::kFloat32,
                   {spans.spans, spans.probes, spans.columns});
  check.contiguous(of_x, "of_x", DType::kFloat32, {spans.rows, spans.probes, spans.columns});
  check.contiguous(of_weight, "of_weight", DType::kFloat32, {spans.probes, spans.columns});
  check.disjoint({{&of_x, "of_x"}, {&of_weight, "of_weight"}}, {{&x, "x"},
                                                                {&weight, "weight"},
                                                                {&starts, "starts"},
                                                                {&stops, "stops"},
                                                                {&out, "out"},
                                                                {&logsums, "logsums"},
                                                                {&gradient, "gradient"}});
  check.threads(threads);
  py::gil_scoped_release release;
  attend_spans_gradient(spans,
                        {as<const float>(out), as<const float>(logsums), as<const float>(gradient)},
                        as<float>(of_x), as<float>(of_weight), threads);
}

}  // namespace

void register_span_attention(py::module_& module) {
  module.def("attend_spans", &attend_spans_of, py::arg("x"), py::arg("weight"), py::arg("starts"),
             py::arg("stops"), py::arg("out"), py::arg("logsums"), py::arg("threads"),
             "Write means of the rows of spans by self-attention, for many probes.");
  module.def("attend_spans_gradient", &attend_spans_gradient_of, py::arg("x"), py::arg("weight"),
             py::arg("starts"), py::arg("stops"), py::arg("out"), py::arg("logsums"),
             py::arg("gradient"), py::arg("of_x"), py::arg("of_weight"), py::arg("threads"),
             "Write the gradients of what attend_spans read.");
}

}  // namespace bertft
