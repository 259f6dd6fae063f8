// Owns the conversions of short floating-point numbers: IEEE half and the two 8-bit floats of OCP. The kernels of every
// device and all readers of files use these.
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

// What follows is in the unnamed namespace: an inline function that is compiled for AVX-512 must never be the copy that
// the linker keeps for a CPU without it. It is constexpr so that nvcc takes it for a GPU, too.
namespace {

/// \param half the bits of an IEEE half
/// \return the number as float32, exact; NaN is quiet.
constexpr float half_to_float(uint32_t half) {
  constexpr uint32_t kRebias = 112u << 23, kSmallest = 113u << 23, kInfinite = 0x1fu << 23;
  const uint32_t sign = (half & 0x8000u) << 16, rest = (half & 0x7fffu) << 13;
  // Beside 2^-14 a subnormal number is a normal one.
  const float sum = __builtin_bit_cast(float, rest + kSmallest);
  const uint32_t subnormal = __builtin_bit_cast(uint32_t, sum - __builtin_bit_cast(float, kSmallest));
  const uint32_t special = rest >= kInfinite ? kRebias | (rest > kInfinite ? 0x400000u : 0u) : 0u;
  const uint32_t normal = (rest + kRebias + (special & ~0x400000u)) | (special & 0x400000u);
  return __builtin_bit_cast(float, sign | (rest < 1u << 23 ? subnormal : normal));
}

/// \param byte the bits of an E4M3 number of the kind without infinities
/// \return the number as float32, exact; NaN is quiet. Source: OCP 8-bit Floating Point Specification
constexpr float e4m3_to_float(uint32_t byte) {
  constexpr uint32_t kRebias = 120u << 23, kSmallest = 121u << 23, kNan = 0x7fu << 20;
  const uint32_t sign = (byte & 0x80u) << 24, rest = (byte & 0x7fu) << 20;
  const float sum = __builtin_bit_cast(float, rest + kSmallest);
  const uint32_t subnormal = __builtin_bit_cast(uint32_t, sum - __builtin_bit_cast(float, kSmallest));
  const uint32_t normal = (rest + kRebias) | (rest == kNan ? 0x7f800000u : 0u);
  return __builtin_bit_cast(float, sign | (rest < 1u << 23 ? subnormal : normal));
}

/// The same of an E5M2 number, which is the upper half of an IEEE half.
constexpr float e5m2_to_float(uint32_t byte) { return half_to_float(byte << 8); }

}  // namespace

/// \return whether the number is finite and its half is not.
inline bool is_beyond_half(float value) { return std::isfinite(value) && std::fabs(value) >= 65520.f; }

}  // namespace nostos
