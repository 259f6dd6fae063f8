// Tests rounding to half against the way back.
#include "tensor/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tensor/bfloat16.h"

namespace nostos {
namespace {

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
