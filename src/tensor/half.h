// Owns rounding to IEEE half. The way back is half_to_float() of bfloat16.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace nostos {

/// Rounds to nearest, ties to even; what is too large becomes infinite, NaN a quiet NaN.
inline uint16_t to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // from 65520 on
  // Below the least normal half, 2^-14, the sum's unit in the last place is that of halves: 2^-24.
  if (magnitude < 0x38800000u) {
    const uint32_t sum = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (sum - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

/// \return whether the number is finite and its half is not.
inline bool is_beyond_half(float value) { return std::isfinite(value) && std::fabs(value) >= 65520.f; }

}  // namespace nostos
