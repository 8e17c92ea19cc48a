// Compiled once per instruction set, with BERTFT_ISA the set's name, BERTFT_VECTOR_BYTES its
// register width and BERTFT_TILE_HEIGHT the rows of a register tile. Includes nothing with
// inline functions of the standard library: the linker could pick this set's copy of one for
// code that runs on every machine.
#include "isa/table.h"

#define BERTFT_CONCAT_(a, b) a##b
#define BERTFT_CONCAT(a, b) BERTFT_CONCAT_(a, b)

namespace bertft::isa {
namespace {

constexpr std::int64_t kTileHeight = BERTFT_TILE_HEIGHT;
// Rows of a float32 accumulation; longer blocks add up in float64 between such runs.
constexpr std::int64_t kDepth = 128;
// Independent float64 partial sums, enough to hide the latency of an addition.
constexpr std::int64_t kLanes = 16;

template <class T>
struct Vector {
  static constexpr std::int64_t kSize = BERTFT_VECTOR_BYTES / sizeof(T);
  typedef T type __attribute__((vector_size(BERTFT_VECTOR_BYTES), aligned(sizeof(T))));
};
template <class T>
constexpr std::int64_t kPanelWidth = 3 * Vector<T>::kSize;

template <class T>
void widen_row(const T* x, std::int64_t stride, std::int64_t columns, double* out) {
  if (stride == 1) {
    for (std::int64_t j = 0; j < columns; ++j) out[j] = widen(x[j]);
  } else {
    for (std::int64_t j = 0; j < columns; ++j) out[j] = widen(x[j * stride]);
  }
}

void widen_row(RowView x, std::int64_t columns, double* out) {
  switch (x.dtype) {
    case DType::kFloat64:
      return widen_row(static_cast<const double*>(x.address), x.stride, columns, out);
    case DType::kFloat32:
      return widen_row(static_cast<const float*>(x.address), x.stride, columns, out);
    case DType::kFloat16:
      return widen_row(static_cast<const Half*>(x.address), x.stride, columns, out);
    case DType::kBFloat16:
      return widen_row(static_cast<const BFloat*>(x.address), x.stride, columns, out);
    case DType::kInt64:
      __builtin_unreachable();
  }
}

double fold(const double (&lanes)[kLanes]) {
  double sum = 0.0;
  for (std::int64_t j = 0; j < kLanes; ++j) sum += lanes[j];
  return sum;
}

double sum_of(const double* x, std::int64_t columns) {
  double lanes[kLanes] = {};
  std::int64_t j = 0;
  for (; j + kLanes <= columns; j += kLanes) {
    for (std::int64_t i = 0; i < kLanes; ++i) lanes[i] += x[j + i];
  }
  for (; j < columns; ++j) lanes[j % kLanes] += x[j];
  return fold(lanes);
}

double sum_of_squares(const double* x, std::int64_t columns) {
  double lanes[kLanes] = {};
  std::int64_t j = 0;
  for (; j + kLanes <= columns; j += kLanes) {
    for (std::int64_t i = 0; i < kLanes; ++i) lanes[i] += x[j + i] * x[j + i];
  }
  for (; j < columns; ++j) lanes[j % kLanes] += x[j] * x[j];
  return fold(lanes);
}

void subtract_mean(double* x, std::int64_t columns) {
  const double mean = sum_of(x, columns) / static_cast<double>(columns);
  for (std::int64_t j = 0; j < columns; ++j) x[j] -= mean;
}

// Rows whose squares leave the range of float64 are first scaled by a power of two.
bool scale_to_unit(double* x, std::int64_t columns) {
  double squares = sum_of_squares(x, columns);
  if (!(squares > 0x1.0p-900 && squares < 0x1.0p900)) {
    double largest = 0.0;
    for (std::int64_t j = 0; j < columns; ++j) {
      const double magnitude = __builtin_fabs(x[j]);
      largest = magnitude > largest ? magnitude : largest;
    }
    if (!(largest > 0.0)) return false;
    int exponent = 0;
    __builtin_frexp(largest, &exponent);
    for (std::int64_t j = 0; j < columns; ++j) x[j] = __builtin_ldexp(x[j], -exponent);
    squares = sum_of_squares(x, columns);
  }
  const double scale = 1.0 / __builtin_sqrt(squares);
  for (std::int64_t j = 0; j < columns; ++j) x[j] *= scale;
  return true;
}

template <class T>
double pack_row(RowView x, std::int64_t columns, const double* origin, RowMap map, std::int64_t row,
                std::int64_t rows, double* scratch, T* panels) {
  constexpr std::int64_t width = kPanelWidth<T>;
  widen_row(x, columns, scratch);
  if (map == RowMap::kCenteredUnit) subtract_mean(scratch, columns);
  if (map != RowMap::kRaw && !scale_to_unit(scratch, columns)) return -1.0;
  // Rounded to T first, so that the norm is the norm of what is stored.
  for (std::int64_t j = 0; j < columns; ++j) {
    scratch[j] = static_cast<double>(static_cast<T>(scratch[j] - origin[j]));
  }
  for (std::int64_t start = 0; start < columns; start += width) {
    T* out = panels + start * rows + row * width;
    const std::int64_t count = columns - start < width ? columns - start : width;
    for (std::int64_t j = 0; j < count; ++j) out[j] = static_cast<T>(scratch[start + j]);
    for (std::int64_t j = count; j < width; ++j) out[j] = T(0);
  }
  return sum_of_squares(scratch, columns);
}

// One register tile over at most kDepth rows: kTileHeight x 3 accumulators, three vectors of b
// and one broadcast element of a fill the register file (AVX-512: 28 of 32; AVX2: 16 of 16).
template <class T>
void multiply_tile(const T* a, const T* b, std::int64_t depth,
                   T (&tile)[kTileHeight][kPanelWidth<T>]) {
  using vector = typename Vector<T>::type;
  constexpr std::int64_t lanes = Vector<T>::kSize;
  vector sums[kTileHeight][3] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    const vector b0 = *reinterpret_cast<const vector*>(b);
    const vector b1 = *reinterpret_cast<const vector*>(b + lanes);
    const vector b2 = *reinterpret_cast<const vector*>(b + 2 * lanes);
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < kTileHeight; ++i) {
      sums[i][0] += a[i] * b0;
      sums[i][1] += a[i] * b1;
      sums[i][2] += a[i] * b2;
    }
    a += kPanelWidth<T>;
    b += kPanelWidth<T>;
  }
#pragma GCC unroll 8
  for (std::int64_t i = 0; i < kTileHeight; ++i) {
    for (std::int64_t v = 0; v < 3; ++v)
      *reinterpret_cast<vector*>(&tile[i][v * lanes]) = sums[i][v];
  }
}

template <class T>
void add_product(const T* a, const T* b, std::int64_t rows, std::int64_t first, std::int64_t height,
                 std::int64_t width, std::int64_t skew, double* product, std::int64_t stride) {
  T tile[kTileHeight][kPanelWidth<T>];
  for (std::int64_t start = 0; start < rows; start += kDepth) {
    const std::int64_t depth = rows - start < kDepth ? rows - start : kDepth;
    multiply_tile<T>(a + start * kPanelWidth<T> + first, b + start * kPanelWidth<T>, depth, tile);
    for (std::int64_t i = 0; i < height; ++i) {
      double* out = product + i * stride;
      const std::int64_t begin = i + skew > 0 ? i + skew : 0;
      for (std::int64_t j = begin; j < width; ++j) out[j] += static_cast<double>(tile[i][j]);
    }
  }
}

template <class T>
void add_weighted(const T* panel, std::int64_t rows, const double* weights, std::int64_t width,
                  double* sums) {
  double lanes[kPanelWidth<T>] = {};
  for (std::int64_t r = 0; r < rows; ++r) {
    const double weight = weights == nullptr ? 1.0 : weights[r];
    const T* row = panel + r * kPanelWidth<T>;
    for (std::int64_t j = 0; j < kPanelWidth<T>; ++j) {
      lanes[j] += weight * static_cast<double>(row[j]);
    }
  }
  for (std::int64_t j = 0; j < width; ++j) sums[j] += lanes[j];
}

inline bool is_finite(float value) {
  return (__builtin_bit_cast(std::uint32_t, value) & 0x7F800000u) != 0x7F800000u;
}
inline bool is_finite(double value) {
  constexpr std::uint64_t mask = 0x7FF0000000000000u;
  return (__builtin_bit_cast(std::uint64_t, value) & mask) != mask;
}

// Means are formed in float64 and rounded once; a single row is widened and copied.
template <class T, class Out>
bool pool_row(const T* x, std::int64_t row_stride, std::int64_t stride, std::int64_t start,
              std::int64_t stop, std::int64_t columns, Out* out) {
  constexpr std::int64_t chunk = 64;
  const double count = static_cast<double>(stop - start);
  unsigned bad = 0;
  for (std::int64_t first = 0; first < columns; first += chunk) {
    const std::int64_t width = columns - first < chunk ? columns - first : chunk;
    const T* from = x + start * row_stride + first * stride;
    if (stop - start == 1 && stride == 1) {
      for (std::int64_t j = 0; j < width; ++j) out[first + j] = static_cast<Out>(widen(from[j]));
    } else {
      double sums[chunk] = {};
      for (std::int64_t r = start; r < stop; ++r, from += row_stride) {
        for (std::int64_t j = 0; j < width; ++j) sums[j] += widen(from[j * stride]);
      }
      for (std::int64_t j = 0; j < width; ++j) out[first + j] = static_cast<Out>(sums[j] / count);
    }
    for (std::int64_t j = 0; j < width; ++j) bad |= is_finite(out[first + j]) ? 0u : 1u;
  }
  return bad == 0;
}

bool pool_any_row(RowView x, std::int64_t row_stride, std::int64_t start, std::int64_t stop,
                  std::int64_t columns, void* out) {
  float* narrow = static_cast<float*>(out);
  switch (x.dtype) {
    case DType::kFloat64:
      return pool_row(static_cast<const double*>(x.address), row_stride, x.stride, start, stop,
                      columns, static_cast<double*>(out));
    case DType::kFloat32:
      return pool_row(static_cast<const float*>(x.address), row_stride, x.stride, start, stop,
                      columns, narrow);
    case DType::kFloat16:
      return pool_row(static_cast<const Half*>(x.address), row_stride, x.stride, start, stop,
                      columns, narrow);
    case DType::kBFloat16:
      return pool_row(static_cast<const BFloat*>(x.address), row_stride, x.stride, start, stop,
                      columns, narrow);
    case DType::kInt64:
      break;
  }
  __builtin_unreachable();
}

template <class T>
constexpr PanelKernels<T> panel_kernels() {
  static_assert(kPanelWidth<T> % kTileHeight == 0);
  return {kPanelWidth<T>, kTileHeight, pack_row<T>, add_product<T>, add_weighted<T>};
}

#define BERTFT_STRING_(name) #name
#define BERTFT_STRING(name) BERTFT_STRING_(name)

constexpr Table kTable = {BERTFT_STRING(BERTFT_ISA), panel_kernels<float>(),
                          panel_kernels<double>(), pool_any_row};

}  // namespace

const Table& BERTFT_CONCAT(BERTFT_ISA, _table)();
const Table& BERTFT_CONCAT(BERTFT_ISA, _table)() { return kTable; }

}  // namespace bertft::isa
