// Rows of logits to gradients of cross-entropies, softmax and sigmoid, and what they lose.
#pragma once

#include "isa/lanes.h"
#include "isa/table.h"

namespace bertft::isa {
namespace {

typedef std::int32_t Ints __attribute__((vector_size(BERTFT_VECTOR_BYTES)));
typedef std::uint32_t Bits __attribute__((vector_size(BERTFT_VECTOR_BYTES)));
constexpr std::int64_t kLanes = Vector<float>::kSize;

// exp(x) for x <= 0 to a relative 1.2e-7, 0 where it is no normal number; NaN stays NaN. With
// x = n log(2) + r, where n log(2) is taken off in two parts, 2^n times Cephes' polynomial in r.
inline Floats exponential(Floats x) {
  constexpr float magic = 0x1.8p23f;  // 2^23 and its half: a sum's last bit is worth 1
  const Floats shifted = x * 0x1.715476p0f + magic;
  const Floats n = shifted - magic;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // The last bits of `shifted` are n; those of magic are 0.
  const Bits power = (reinterpret_cast<Bits>(shifted) << 23) + (127u << 23);
  const Floats value = p * reinterpret_cast<Floats>(power);
  return x < -87.33f ? Floats{} : value;
}

// The halves of a vector in float64: through registers, since a load that spans parts of a store
// waits for it.
#if BERTFT_VECTOR_BYTES == 64
inline Wide low_half(Floats x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
inline Wide high_half(Floats x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
#elif BERTFT_VECTOR_BYTES == 32
inline Wide low_half(Floats x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
inline Wide high_half(Floats x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
#else
inline Wide low_half(Floats x) { return load(reinterpret_cast<const float*>(&x)); }
inline Wide high_half(Floats x) { return load(reinterpret_cast<const float*>(&x) + kWide); }
#endif

// 0, 1, 2...
inline Ints lane_numbers() {
  Ints numbers;
#pragma GCC unroll 16
  for (std::int32_t j = 0; j < kLanes; ++j) numbers[j] = j;
  return numbers;
}

inline float largest_lane(Floats x) {
#if BERTFT_VECTOR_BYTES == 64
  return _mm512_reduce_max_ps(x);
#else
  float largest = x[0];
  for (std::int64_t j = 1; j < kLanes; ++j) largest = x[j] > largest ? x[j] : largest;
  return largest;
#endif
}

inline double sum_of_lanes(Wide x) {
#if BERTFT_VECTOR_BYTES == 64
  return _mm512_reduce_add_pd(x);
#else
  return fold(x);
#endif
}

inline double product_of_lanes(Wide x) {
#if BERTFT_VECTOR_BYTES == 64
  return _mm512_reduce_mul_pd(x);
#else
  double product = 1.0;
  for (std::int64_t j = 0; j < kWide; ++j) product *= x[j];
  return product;
#endif
}

inline bool are_zero(Floats x) {
  const Ints is_other = x != Floats{};
  Ints any = is_other;
#if BERTFT_VECTOR_BYTES == 64
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(any), reinterpret_cast<__m512i>(any)) ==
         0;
#else
  std::int32_t bits = 0;
  for (std::int64_t j = 0; j < kLanes; ++j) bits |= any[j];
  return bits == 0;
#endif
}

// Multiplies by a number of at least 1; what is not finite stays so.
inline void multiply_by(Product& product, double factor) {
  const double value = product.mantissa * factor;
  if (!is_finite(value)) {
    product.mantissa = value;
    return;
  }
  const std::uint64_t bits = __builtin_bit_cast(std::uint64_t, value);
  product.exponent += static_cast<std::int64_t>(bits >> 52) - 1023;
  product.mantissa = __builtin_bit_cast(double, (bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u);
}

// z becomes softmax(z) - onehot(target). All logits of a probe stay in registers where there are at
// most four vectors of them. Terms are added in float64, where a small loss keeps its digits.
template <std::int64_t kVectors>
inline bool softmax_in_registers(float* z, std::int64_t count, std::int64_t target, Loss& loss) {
  constexpr std::int64_t whole = (kVectors - 1) * kLanes;
  const float of_target = z[target];
  const std::int64_t rest = count - whole;
  const Ints numbers = lane_numbers();
  Floats x[kVectors];
#pragma GCC unroll 4
  for (std::int64_t v = 0; v < kVectors - 1; ++v) x[v] = floats(z + v * kLanes);
  x[kVectors - 1] = load_some(z + whole, rest, z[0]);
  Floats most = x[0], differences = x[0] - x[0];
#pragma GCC unroll 4
  for (std::int64_t v = 1; v < kVectors; ++v) {
    most = x[v] > most ? x[v] : most;
    differences += x[v] - x[v];
  }
  const float largest = largest_lane(most);
  Wide sums = {};
#pragma GCC unroll 4
  for (std::int64_t v = 0; v < kVectors; ++v) {
    x[v] = exponential(x[v] - largest);
    if (v == kVectors - 1) x[v] = numbers < static_cast<std::int32_t>(rest) ? x[v] : Floats{};
    sums += low_half(x[v]) + high_half(x[v]);
  }
  const double sum = sum_of_lanes(sums);
  const float scale = static_cast<float>(1.0 / sum);
  const std::int32_t place = static_cast<std::int32_t>(target);
#pragma GCC unroll 4
  for (std::int64_t v = 0; v < kVectors; ++v) {
    const Floats p = x[v] * scale;
    const Floats gradient = numbers == place - static_cast<std::int32_t>(v * kLanes) ? p - 1.0f : p;
    if (v < kVectors - 1) {
      *reinterpret_cast<Floats*>(z + v * kLanes) = gradient;
    } else {
      store_some(z + whole, gradient, rest);
    }
  }
  loss.total += static_cast<double>(largest) - static_cast<double>(of_target);
  multiply_by(loss.factors, sum);
  return are_zero(differences);
}

// The same through memory.
bool softmax_in_memory(float* z, std::int64_t count, std::int64_t target, Loss& loss) {
  const float of_target = z[target], first = z[0];
  Floats most = floats(z), differences = {};
  const auto for_each = [&](const auto& visit) {
    std::int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes) visit(z + j, kLanes);
    if (j < count) visit(z + j, count - j);
  };
  for_each([&](const float* at, std::int64_t size) {
    const Floats x = load_some(at, size, first);
    most = x > most ? x : most;
    differences += x - x;
  });
  const float largest = largest_lane(most);
  Wide sums = {};
  for_each([&](float* at, std::int64_t size) {
    const Floats x = exponential(load_some(at, size, -__builtin_inff()) - largest);
    sums += low_half(x) + high_half(x);
    store_some(at, x, size);
  });
  const double sum = sum_of_lanes(sums);
  const float scale = static_cast<float>(1.0 / sum);
  for_each([&](float* at, std::int64_t size) {
    store_some(at, load_some(at, size, 0.0f) * scale, size);
  });
  z[target] -= 1.0f;
  loss.total += static_cast<double>(largest) - static_cast<double>(of_target);
  multiply_by(loss.factors, sum);
  return are_zero(differences);
}

inline bool softmax(float* z, std::int64_t count, std::int64_t target, Loss& loss) {
  if (target < 0) {
    for (std::int64_t j = 0; j < count; ++j) z[j] = 0.0f;
    return true;
  }
  if (count <= kLanes) return softmax_in_registers<1>(z, count, target, loss);
  if (count <= 2 * kLanes) return softmax_in_registers<2>(z, count, target, loss);
  if (count <= 3 * kLanes) return softmax_in_registers<3>(z, count, target, loss);
  if (count <= 4 * kLanes) return softmax_in_registers<4>(z, count, target, loss);
  return softmax_in_memory(z, count, target, loss);
}

// Row by row of a probe, not probe by probe of a row: a load beside the masked end of a probe that
// was just stored would wait for it.
bool softmax_rows(const LogitRows& x, const std::int64_t* targets, Loss* losses) {
  bool is_finite = true;
  for (std::int64_t k = 0; k < x.probes; ++k) {
    for (std::int64_t i = 0; i < x.rows; ++i) {
      is_finite &= softmax(x.logits + i * x.columns + x.offsets[k], x.offsets[k + 1] - x.offsets[k],
                           targets[i * x.probes + k], losses[k]);
    }
  }
  return is_finite;
}

// Targets 0 or 1, or 255 where a logit does not count.
inline Ints targets_from(const std::uint8_t* targets, std::int64_t count) {
#if BERTFT_VECTOR_BYTES == 64
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1u);
  const __m128i bytes = _mm_mask_loadu_epi8(_mm_set1_epi8(-1), mask, targets);
  return reinterpret_cast<Ints>(_mm512_cvtepu8_epi32(bytes));
#else
  Ints all;
  for (std::int64_t j = 0; j < kLanes; ++j) all[j] = j < count ? targets[j] : 255;
  return all;
#endif
}

// Columns whose factors of at most 2 have a product that float64 holds.
constexpr std::int64_t kFactors = 512;

bool sigmoid_columns(float* logits, const std::uint8_t* targets, std::int64_t count, Loss& loss) {
  Floats differences = {};
  Wide totals = {}, factors = Wide{} + 1.0;
  const auto step = [&](std::int64_t j, std::int64_t size) {
    const Ints y = targets_from(targets + j, size);
    const Floats x = load_some(logits + j, size, 0.0f), z = y == 255 ? Floats{} : x;
    differences += z - z;
    const Floats e = exponential(z < 0.0f ? z : -z);
    const Floats inverse = 1.0f / (1.0f + e);
    const Floats probability = z < 0.0f ? e * inverse : inverse;
    const Floats label = y == 1 ? Floats{} + 1.0f : Floats{};
    const Floats gradient = probability - label;
    const Floats linear = (z > 0.0f ? z : Floats{}) - (y == 1 ? z : Floats{});
    const Floats term = y == 255 ? Floats{} : e;
    totals += low_half(linear) + high_half(linear);
    factors += factors * low_half(term);
    factors += factors * high_half(term);
    store_some(logits + j, y == 255 ? Floats{} : gradient, size);
  };
  std::int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) step(j, kLanes);
  if (j < count) step(j, count - j);
  loss.total += sum_of_lanes(totals);
  multiply_by(loss.factors, product_of_lanes(factors));
  return are_zero(differences);
}

bool sigmoid_rows(const LogitRows& x, const std::uint8_t* targets, Loss* losses) {
  bool is_finite = true;
  for (std::int64_t k = 0; k < x.probes; ++k) {
    for (std::int64_t i = 0; i < x.rows; ++i) {
      for (std::int64_t j = x.offsets[k]; j < x.offsets[k + 1]; j += kFactors) {
        const std::int64_t at = i * x.columns + j;
        is_finite &= sigmoid_columns(x.logits + at, targets + at,
                                     smaller(kFactors, x.offsets[k + 1] - j), losses[k]);
      }
    }
  }
  return is_finite;
}

}  // namespace
}  // namespace bertft::isa
