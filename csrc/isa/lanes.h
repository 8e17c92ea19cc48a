// Vectors of one instruction set. Every header beside this one is compiled once per set, inside
// kernels.cpp, and includes nothing with inline functions of the standard library: the linker
// could pick this set's copy of one for code that runs on every machine.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "kernels/dtypes.h"

namespace bertft::isa {
namespace {

template <class T>
struct Vector {
  static constexpr std::int64_t kSize = BERTFT_VECTOR_BYTES / sizeof(T);
  typedef T type __attribute__((vector_size(BERTFT_VECTOR_BYTES), aligned(sizeof(T))));
};

// As many elements as a register holds float64 values: what is widened at once.
constexpr std::int64_t kWide = BERTFT_VECTOR_BYTES / sizeof(double);
typedef double Wide __attribute__((vector_size(BERTFT_VECTOR_BYTES), aligned(sizeof(double))));
template <class T>
struct Unit {
  typedef T type __attribute__((vector_size(kWide * sizeof(T)), aligned(sizeof(T))));
};

// GCC 12 widens a generic vector in two halves and an insertion; the instruction is one.
inline Wide wide(Unit<float>::type x) {
#if BERTFT_VECTOR_BYTES == 64
  return _mm512_cvtps_pd(x);
#elif BERTFT_VECTOR_BYTES == 32
  return _mm256_cvtps_pd(x);
#else
  return __builtin_convertvector(x, Wide);
#endif
}

// As many float32 values as a register holds, from rows of any narrower type.
typedef Vector<float>::type Floats;
inline Floats floats(const float* x) { return *reinterpret_cast<const Floats*>(x); }
template <class Narrow>
inline Floats floats_one_by_one(const Narrow* x) {
  Floats values;
  for (std::int64_t j = 0; j < Vector<float>::kSize; ++j) values[j] = widen(x[j]);
  return values;
}
#if BERTFT_VECTOR_BYTES == 64
inline Floats floats(const Half* x) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
inline Floats floats(const BFloat* x) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
#elif BERTFT_VECTOR_BYTES == 32
inline Floats floats(const Half* x) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
inline Floats floats(const BFloat* x) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
#else
inline Floats floats(const Half* x) { return floats_one_by_one(x); }
inline Floats floats(const BFloat* x) { return floats_one_by_one(x); }
#endif

// Values of any type in the vectors that they are kept in.
template <class In>
inline Floats values(const In* x) {
  return floats(x);
}
inline Vector<double>::type values(const double* x) {
  return *reinterpret_cast<const Vector<double>::type*>(x);
}

inline Wide load(const float* x) { return wide(*reinterpret_cast<const Unit<float>::type*>(x)); }
inline Wide load(const double* x) { return *reinterpret_cast<const Wide*>(x); }

// Rounds and stores; returns what was stored.
inline Wide store(float* out, Wide value) {
  const auto rounded = __builtin_convertvector(value, Unit<float>::type);
  *reinterpret_cast<Unit<float>::type*>(out) = rounded;
  return wide(rounded);
}
inline Wide store(double* out, Wide value) { return *reinterpret_cast<Wide*>(out) = value; }

// The first `count` values, at most a register of them, and `fill` in the other lanes.
template <class T>
inline typename Vector<T>::type load_some(const T* x, std::int64_t count, T fill) {
#if BERTFT_VECTOR_BYTES == 64
  const unsigned mask = (1u << count) - 1u;
  if constexpr (sizeof(T) == 4) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>(mask), x);
  } else {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), static_cast<__mmask8>(mask), x);
  }
#else
  using vector = typename Vector<T>::type;
  constexpr std::int64_t lanes = Vector<T>::kSize;
  if (count == lanes) return *reinterpret_cast<const vector*>(x);
  vector values;
  for (std::int64_t j = 0; j < lanes; ++j) values[j] = j < count ? x[j] : fill;
  return values;
#endif
}

template <class T>
inline void store_some(T* out, typename Vector<T>::type values, std::int64_t count) {
#if BERTFT_VECTOR_BYTES == 64
  const unsigned mask = (1u << count) - 1u;
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(out, static_cast<__mmask16>(mask), values);
  } else {
    _mm512_mask_storeu_pd(out, static_cast<__mmask8>(mask), values);
  }
#else
  using vector = typename Vector<T>::type;
  if (count == Vector<T>::kSize) {
    *reinterpret_cast<vector*>(out) = values;
  } else {
    for (std::int64_t j = 0; j < count; ++j) out[j] = values[j];
  }
#endif
}

constexpr std::int64_t kTileHeight = BERTFT_TILE_HEIGHT;
constexpr std::int64_t kTileVectors = 3;
template <class T>
constexpr std::int64_t kPanelWidth = kTileVectors * Vector<T>::kSize;

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

inline double fold(Wide lanes) {
  double sum = 0.0;
  for (std::int64_t j = 0; j < kWide; ++j) sum += lanes[j];
  return sum;
}

inline float total_of(Floats x) {
#if BERTFT_VECTOR_BYTES == 64
  return _mm512_reduce_add_ps(x);
#else
  float total = 0.0f;
  for (std::int64_t j = 0; j < Vector<float>::kSize; ++j) total += x[j];
  return total;
#endif
}

// Calls visit(j, count) for all columns, a register of them at a time.
template <class Visit>
inline void for_each_vector(std::int64_t columns, const Visit& visit) {
  constexpr std::int64_t lanes = Vector<float>::kSize;
  std::int64_t j = 0;
  for (; j + lanes <= columns; j += lanes) visit(j, lanes);
  if (j < columns) visit(j, columns - j);
}

// sum_j term(j), where term(j, wide) gives the terms of the kWide columns from j on and
// term(j, 0.0) one; four partial sums hide the latency of an addition.
template <class Term>
inline double sum_of(std::int64_t columns, const Term& term) {
  Wide lanes[4] = {};
  std::int64_t j = 0;
  for (; j + 4 * kWide <= columns; j += 4 * kWide) {
    for (std::int64_t i = 0; i < 4; ++i) lanes[i] += term(j + i * kWide, Wide{});
  }
  for (; j + kWide <= columns; j += kWide) lanes[0] += term(j, Wide{});
  double sum = fold((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]));
  for (; j < columns; ++j) sum += term(j, 0.0);
  return sum;
}

template <class T>
inline Wide value_at(const T* x, Wide) {
  return load(x);
}
template <class T>
inline double value_at(const T* x, double) {
  return static_cast<double>(*x);
}

inline bool is_finite(float value) {
  return (__builtin_bit_cast(std::uint32_t, value) & 0x7F800000u) != 0x7F800000u;
}
inline bool is_finite(double value) {
  constexpr std::uint64_t mask = 0x7FF0000000000000u;
  return (__builtin_bit_cast(std::uint64_t, value) & mask) != mask;
}

}  // namespace
}  // namespace bertft::isa
