// Owns the bfloat16 element and its conversions: exact, or rounded to nearest even.
#pragma once

#include <bit>
#include <cstdint>

namespace nostos {

/// The upper half of a float32.
struct bfloat16 {
  uint16_t bits;
};

/// Exact.
inline float to_float(bfloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }
inline float to_float(float value) { return value; }

/// Rounds to nearest, ties to even; NaN stays a (quiet) NaN.
inline bfloat16 to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace nostos
