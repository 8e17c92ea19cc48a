// Element types that cross the boundary, and exact widening of the 16-bit ones.
#pragma once

#include <cstdint>

namespace bertft {

enum class DType { kFloat64, kFloat32, kFloat16, kBFloat16, kInt64, kUInt8 };

// Bytes of an element.
static inline std::int64_t size_of(DType dtype) {
  constexpr std::int64_t sizes[] = {8, 4, 2, 2, 8, 1};
  return sizes[static_cast<int>(dtype)];
}

// Tags for the two 16-bit formats, which C++20 has no portable types for.
struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};

static inline float bits_to_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

static inline double widen(double value) { return value; }
static inline float widen(float value) { return value; }
static inline float widen(BFloat value) {
  return bits_to_float(static_cast<std::uint32_t>(value.bits) << 16);
}

// Branch-free, so that the loops around it vectorize: normal numbers are rebiased by a
// multiplication, subnormal ones by a subtraction that the floating-point unit normalizes.
static inline float widen(Half value) {
  const std::uint32_t word = static_cast<std::uint32_t>(value.bits) << 16;
  const std::uint32_t magnitude = word << 1;
  const float normal = bits_to_float((magnitude >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const float subnormal = bits_to_float((magnitude >> 17) | (126u << 23)) - 0.5f;
  const float chosen = magnitude < (1u << 27) ? subnormal : normal;
  return bits_to_float((word & 0x80000000u) | __builtin_bit_cast(std::uint32_t, chosen));
}

}  // namespace bertft
