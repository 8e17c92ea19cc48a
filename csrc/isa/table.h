// The inner loops, compiled once per instruction set, behind one table of pointers.
//
// Panels: packed rows keep their columns in panels of `panel_width` columns, each panel row-major
// (rows x panel_width), so that the same panel serves as either operand of a product. Columns past
// the last one are zero.
#pragma once

#include <cstdint>

#include "kernels/dtypes.h"

namespace bertft::isa {

// No panel of any set is wider.
constexpr std::int64_t kWidestPanel = 48;

enum class RowMap { kRaw, kUnit, kCenteredUnit };

// One row in memory: `stride` in elements.
struct RowView {
  const void* address;
  DType dtype;
  std::int64_t stride;
};

// The norm of a row, and mapped(x) = (x - mean) * power * scale, where scale is 0 for a row without
// direction and power is 1 unless squares of the row leave the range of float64.
struct RowSize {
  double norm;
  bool is_finite;
  double mean, power, scale;
};

template <class T>
struct PanelKernels {
  std::int64_t vector;       // values of a register
  std::int64_t panel_width;  // some vectors
  std::int64_t tile_height;  // divides panel_width

  // out[j] = x[j], exactly.
  void (*widen)(RowView x, std::int64_t columns, T* out);

  RowSize (*size_of_row)(const T* x, std::int64_t columns, RowMap map);

  // Packs `count` rows, `stride` elements apart, as rows `first`... of panels of `rows` rows:
  // z = mapped(x) - origin, rounded to T, by the sizes of the rows; or, where sizes is nullptr and
  // T holds the origin exactly, z = x - origin.
  // norms[i] = sum_j z_ij^2; totals[j] += sum_i z_ij.
  void (*pack_rows)(const T* x, std::int64_t stride, std::int64_t count, std::int64_t columns,
                    const double* origin, const RowSize* sizes, std::int64_t first,
                    std::int64_t rows, T* panels, double* norms, double* totals);

  // product[i * stride + j] += sum_r a[r][first + i] * b[r][j] for i < height, j < width, and
  // only j >= i + skew where the tile crosses the diagonal of a symmetric product.
  void (*add_product)(const T* a, const T* b, std::int64_t rows, std::int64_t first,
                      std::int64_t height, std::int64_t width, std::int64_t skew, double* product,
                      std::int64_t stride);

  // sums[j] += sum_r weights[r] * panel[r][j] for j < width.
  void (*add_weighted)(const T* panel, std::int64_t rows, const double* weights, std::int64_t width,
                       double* sums);

  // |x - y|.
  double (*distance)(const T* x, const T* y, std::int64_t columns);
};

// A tile of a product of matrices: out = a b, or out += a b. a is anywhere, b has `width` columns
// of a panel or of a matrix, `b_step` elements from one row to the next.
template <class T>
struct ProductTile {
  const T* a;
  std::int64_t a_row, a_step;  // from one row, and from one column, to the next
  const T* b;
  std::int64_t b_step;
  std::int64_t depth, height, width;  // height <= tile_height, width <= panel_width
  bool is_added;
  T* out;
  std::int64_t out_row;
};

template <class T>
struct ProductKernels {
  // Reads whole vectors of b, also past `width`.
  void (*multiply_tile)(const ProductTile<T>& tile);

  // Packs a (depth, columns) matrix, x[k * step + j * along], into panels of panel_width columns,
  // `panel` elements apart, with zeros past the last column up to a whole vector.
  void (*pack_panels)(const T* x, std::int64_t step, std::int64_t along, std::int64_t depth,
                      std::int64_t columns, std::int64_t panel, T* out);

  // The same into panels of tile_height columns, which are rows of a.
  void (*pack_tiles)(const T* x, std::int64_t step, std::int64_t along, std::int64_t depth,
                     std::int64_t columns, std::int64_t panel, T* out);
};

// A product of numbers of at least 1, of any size: mantissa * 2^exponent, mantissa in [1, 2).
struct Product {
  double mantissa = 1.0;
  std::int64_t exponent = 0;
};

// What the rows of a probe lose: total + log(factors).
struct Loss {
  double total = 0.0;
  Product factors;
};

// Logits of a probe: a row for each label, `row` elements apart, with one for each of some targets.
struct ProbeLogits {
  float* logits;
  std::int64_t row, labels, targets;
};

// The words of a sentence as one probe projects them: rows of `rank` values, `row` elements apart.
struct Projected {
  float* rows;
  std::int64_t row, words, rank;
};

// The rows of a span as one probe projects them, `row` elements apart.
struct SpanRows {
  const float* rows;
  std::int64_t row, count, columns;
};

// The largest of some logits, and the sum of exp(logit - largest).
struct Softmax {
  float largest, total;
};

// Parameters of a row of hidden units.
struct HiddenLayer {
  const float *bias, *gain, *shift;
  float epsilon;
  std::int64_t width;
};

// Units whose `kept` is 1, or all where it is nullptr, times `scale`; the others become 0.
struct Dropout {
  const std::uint8_t* kept;
  float scale;
};

// The gradients of a layer's parameters.
struct HiddenSums {
  float *bias, *gain, *shift;
};

// A step of Adam that is the same for all columns of a row.
struct AdamStep {
  float scale;            // of the gradient, which is clipped
  float kept;             // 1 - rate * decay
  float size;             // rate / (1 - beta_1^step)
  float toward_gradient;  // 1 - beta_1
  float of_second;        // beta_2
  float of_square;        // 1 - beta_2
  float inverse_root;     // 1 / sqrt(1 - beta_2^step)
  float epsilon;
};

struct AdamRow {
  float *weights, *first, *second, *largest;  // largest may be nullptr
  const float* gradients;
};

struct Table {
  const char* name;
  PanelKernels<float> narrow;
  PanelKernels<double> wide;
  ProductKernels<float> narrow_products;
  ProductKernels<double> wide_products;

  // out[j] = mean over rows start <= r < stop of x[r][j]; returns false if any is not finite.
  bool (*pool_row)(RowView x, std::int64_t row_stride, std::int64_t start, std::int64_t stop,
                   std::int64_t columns, void* out);

  // Logits become `scale` times the gradients of cross-entropies, which `loss` counts; returns
  // false if a logit that counts is not finite. Unless a probe has its last label's logits, they
  // are 0, and their gradients are not written.
  bool (*softmax_logits)(const ProbeLogits& x, const std::int64_t* targets, bool has_last,
                         float scale, Loss& loss);
  bool (*sigmoid_logits)(const ProbeLogits& x, const std::uint8_t* labels, std::int64_t labels_row,
                         float scale, Loss& loss);

  // out[i] = x[i] - x[count - 1] for the other rows of contiguous (count, columns).
  void (*subtract_last)(const float* x, std::int64_t count, std::int64_t columns, float* out);

  // x[count - 1] = -sum of the other rows of `columns` values, `row` elements apart.
  void (*balance_last)(float* x, std::int64_t count, std::int64_t row, std::int64_t columns);

  // sum_j x[j], and sum_j x[j]^2.
  double (*sum)(const float* x, std::int64_t count);
  double (*sum_of_squares)(const float* x, std::int64_t count);

  // Projected rows become the gradient of the loss that is returned: mean over pairs of words, or
  // over words, of | squared distance or norm - gold |; gold is (words, words), or (words).
  double (*distance_rows)(const Projected& x, const float* gold, float* scratch);
  std::int64_t (*distance_scratch)(std::int64_t words, std::int64_t rank);
  double (*depth_rows)(const Projected& x, const float* gold);

  // out = the mean of a span's rows, weighted by the softmax of their logits, rows . weight;
  // `shares` has room for a value of each.
  Softmax (*attend_span)(const SpanRows& x, const float* weight, float* shares, float* out);

  // shares = exp(logit - logsum), and slopes = the gradient of each logit.
  void (*slopes_of_span)(const SpanRows& x, const float* weight, float logsum, const float* mean,
                         const float* of_mean, float* shares, float* slopes);

  // of_rows += share of_mean + slope weight, and of_weight += the sum of slope row; of_rows lies as
  // the rows do, and any run of columns may be taken.
  void (*add_span_gradient)(const SpanRows& x, const float* weight, const float* of_mean,
                            const float* shares, const float* slopes, float* of_rows,
                            float* of_weight);

  // x becomes tanh(x + bias), and out that normalized, with dropout.
  void (*tanh_norm_row)(const HiddenLayer& layer, const Dropout& dropout, float* x, float* out);

  // The gradient of out becomes that of x; those of the parameters are added to `sums`.
  void (*tanh_norm_row_gradient)(const HiddenLayer& layer, const Dropout& dropout,
                                 const float* hidden, float* gradient, const HiddenSums& sums);

  void (*adam_row)(const AdamRow& row, std::int64_t columns, const AdamStep& step);
};

// The set that the kernels run on: the widest that this machine has, unless `select` chose one.
const Table& active();

// Names of the sets that this machine runs, the widest first; null-terminated.
const char* const* available();

// Makes a set the active one; false if this machine does not run it. Not while kernels run.
bool select(const char* name);

}  // namespace bertft::isa
