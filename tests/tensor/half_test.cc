// Tests the conversions of halves and of 8-bit floats: each number against its definition, and rounding against the way
// back.
#include "tensor/half.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace nostos {
namespace {

/// \return the number of a sign, `exponent_bits` and `mantissa_bits`, as IEEE 754 and the OCP specification define it;
/// what the largest exponent stands for is not known here.
double defined(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const auto mantissa = static_cast<int>(bits & ((1u << mantissa_bits) - 1));
  const auto exponent = static_cast<int>(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int whole = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);
  const double value = std::ldexp(whole, std::max(exponent, 1) - bias - mantissa_bits);
  return (bits >> (exponent_bits + mantissa_bits) & 1u) != 0 ? -value : value;
}

/// Compares bits, so that the zeros differ.
void expect_same(float value, double wanted, uint32_t bits) {
  EXPECT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(static_cast<float>(wanted))) << bits;
}

void expect_quiet_nan(float value, uint32_t bits) {
  EXPECT_EQ(std::bit_cast<uint32_t>(value) & 0x7fc00000u, 0x7fc00000u) << bits;
}

TEST(Half, EveryHalfIsTheNumberThatIeeeDefines) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7c00u) != 0x7c00u)
      expect_same(half_to_float(bits), defined(bits, 5, 10), bits);
    else if ((bits & 0x3ffu) == 0)
      expect_same(half_to_float(bits), (bits >> 15) != 0 ? -INFINITY : INFINITY, bits);
    else
      expect_quiet_nan(half_to_float(bits), bits);
  }
}

TEST(Float8, EveryByteIsTheNumberThatOcpDefines) {
  for (uint32_t bits = 0; bits < 0x100; ++bits) {
    if ((bits & 0x7fu) == 0x7fu)
      expect_quiet_nan(e4m3_to_float(bits), bits);
    else
      expect_same(e4m3_to_float(bits), defined(bits, 4, 3), bits);
    if ((bits & 0x7cu) != 0x7cu)
      expect_same(e5m2_to_float(bits), defined(bits, 5, 2), bits);
    else if ((bits & 0x3u) == 0)
      expect_same(e5m2_to_float(bits), (bits >> 7) != 0 ? -INFINITY : INFINITY, bits);
    else
      expect_quiet_nan(e5m2_to_float(bits), bits);
  }
  EXPECT_EQ(e4m3_to_float(0x7e), 448.f);
  EXPECT_EQ(e5m2_to_float(0x7b), 57344.f);
  static_assert(e4m3_to_float(0x38) == 1.f && e5m2_to_float(0x3c) == 1.f && half_to_float(0x3c00) == 1.f);
}

TEST(Half, EveryHalfStays) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = half_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(half_to_float(to_half(value)))) << bits;
    else
      EXPECT_EQ(to_half(value), bits);
  }
}

TEST(Half, RoundsToTheNearestAndTiesToEven) {
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {  // up to the largest finite but one
    const float low = half_to_float(bits), high = half_to_float(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;  // exact in float32
    const auto even = static_cast<uint16_t>(bits + (bits & 1));
    EXPECT_EQ(to_half(middle), even) << bits;
    EXPECT_EQ(to_half(-middle), even | 0x8000) << bits;
    EXPECT_EQ(to_half(std::nextafter(middle, low)), bits);
    EXPECT_EQ(to_half(std::nextafter(middle, high)), bits + 1);
  }
}

TEST(Half, WhatIsTooLargeIsInfinite) {
  const float last = std::nextafter(65520.f, 0.f);
  EXPECT_EQ(to_half(last), 0x7bff);
  EXPECT_FALSE(is_beyond_half(last));
  EXPECT_EQ(to_half(65520.f), 0x7c00);
  EXPECT_TRUE(is_beyond_half(65520.f));
  EXPECT_EQ(to_half(-std::numeric_limits<float>::max()), 0xfc00);
  EXPECT_FALSE(is_beyond_half(std::numeric_limits<float>::infinity())) << "it was so before";
}

}  // namespace
}  // namespace nostos
