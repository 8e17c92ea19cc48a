// Logits of a probe to gradients of its cross-entropies, softmax and sigmoid, and what they lose.
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

inline Floats joined(Wide low, Wide high) {
#if BERTFT_VECTOR_BYTES == 64
  const __m512 half = _mm512_castps256_ps512(_mm512_cvtpd_ps(low));
  return _mm512_insertf32x8(half, _mm512_cvtpd_ps(high), 1);
#elif BERTFT_VECTOR_BYTES == 32
  return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
#else
  Floats x;
  store(reinterpret_cast<float*>(&x), low);
  store(reinterpret_cast<float*>(&x) + kWide, high);
  return x;
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

// The classes of some targets, -1 past the last.
inline Ints classes_from(const std::int64_t* targets, std::int64_t count) {
  Ints classes;
#pragma GCC unroll 16
  for (std::int64_t j = 0; j < kLanes; ++j) {
    classes[j] = j < count ? static_cast<std::int32_t>(targets[j]) : -1;
  }
  return classes;
}

// z becomes scale (softmax(z) - onehot(target)), a vector of targets at a time. Terms are added in
// float64, where a small loss keeps its digits.
bool softmax_logits(const ProbeLogits& x, const std::int64_t* targets, bool has_last, float scale,
                    Loss& loss) {
  const Floats zero = {}, one = zero + 1.0f;
  Floats differences = {};
  for (std::int64_t j = 0; j < x.targets; j += kLanes) {
    const std::int64_t count = smaller(kLanes, x.targets - j);
    const Ints target = classes_from(targets + j, count), counts = target >= 0;
    const auto for_each_label = [&](const auto& visit) {
      float* z = x.logits + j;
      for (std::int32_t c = 0; c < x.labels; ++c, z += x.row) visit(z, target == c);
    };
    // Targets without a class have logits of 0, and count for nothing below.
    const auto logits = [&](const float* z) { return counts ? load_some(z, count, 0.0f) : zero; };
    Floats most = has_last ? zero - __builtin_inff() : zero, of_target = {};
    for_each_label([&](const float* at, Ints is_target) {
      const Floats z = logits(at);
      most = z > most ? z : most;
      of_target = is_target ? z : of_target;
      differences += z - z;
    });
    const Floats of_last = has_last ? zero : exponential(-most);
    Wide low = low_half(of_last), high = high_half(of_last);
    for_each_label([&](float* at, Ints) {
      const Floats e = exponential(logits(at) - most);
      low += low_half(e);
      high += high_half(e);
      store_some(at, e, count);
    });
    const Floats part = counts ? joined(scale / low, scale / high) : zero;
    for_each_label([&](float* at, Ints is_target) {
      const Floats p = load_some(at, count, 0.0f) * part;
      store_some(at, is_target ? p - scale : p, count);
    });
    loss.total += sum_of_lanes((low_half(most) - low_half(of_target)) +
                               (high_half(most) - high_half(of_target)));
    const Floats own = counts ? one : zero;
    low = low * low_half(own) + low_half(one - own);
    high = high * high_half(own) + high_half(one - own);
    multiply_by(loss.factors, product_of_lanes(low * high));
  }
  return are_zero(differences);
}

// Labels 0 or 1, or 255 where a logit does not count.
inline Ints labels_from(const std::uint8_t* labels, std::int64_t count) {
#if BERTFT_VECTOR_BYTES == 64
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1u);
  const __m128i bytes = _mm_mask_loadu_epi8(_mm_set1_epi8(-1), mask, labels);
  return reinterpret_cast<Ints>(_mm512_cvtepu8_epi32(bytes));
#else
  Ints all;
  for (std::int64_t j = 0; j < kLanes; ++j) all[j] = j < count ? labels[j] : 255;
  return all;
#endif
}

// Logits of a label whose factors of at most 2 have a product that float64 holds.
constexpr std::int64_t kFactors = 512;

bool sigmoid_row(float* logits, const std::uint8_t* labels, std::int64_t count, float scale,
                 Loss& loss) {
  Floats differences = {};
  Wide totals = {}, factors = Wide{} + 1.0;
  const auto step = [&](std::int64_t j, std::int64_t size) {
    const Ints y = labels_from(labels + j, size);
    const Floats x = load_some(logits + j, size, 0.0f), z = y == 255 ? Floats{} : x;
    differences += z - z;
    const Floats e = exponential(z < 0.0f ? z : -z);
    const Floats inverse = 1.0f / (1.0f + e);
    const Floats probability = z < 0.0f ? e * inverse : inverse;
    const Floats label = y == 1 ? Floats{} + 1.0f : Floats{};
    const Floats gradient = (probability - label) * scale;
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

bool sigmoid_logits(const ProbeLogits& x, const std::uint8_t* labels, std::int64_t labels_row,
                    float scale, Loss& loss) {
  bool is_finite = true;
  for (std::int64_t c = 0; c < x.labels; ++c) {
    for (std::int64_t j = 0; j < x.targets; j += kFactors) {
      is_finite &= sigmoid_row(x.logits + c * x.row + j, labels + c * labels_row + j,
                               smaller(kFactors, x.targets - j), scale, loss);
    }
  }
  return is_finite;
}

}  // namespace
}  // namespace bertft::isa
