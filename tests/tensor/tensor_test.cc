// Tests dtypes, conversions, shapes and views.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"

namespace nostos {
namespace {

TEST(DType, NamesAndSizesRoundTrip) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i16,
                            DType::i8, DType::u8, DType::boolean}) {
    EXPECT_EQ(parse_dtype(name(dtype)), dtype);
  }
  EXPECT_EQ(size_bytes(DType::bf16), 2u);
  EXPECT_EQ(size_bytes(DType::f64), 8u);
  EXPECT_FALSE(parse_dtype("F8_E4M3").has_value());
}

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(to_bfloat16(1.f).bits, 0x3f80);
  EXPECT_EQ(to_bfloat16(1.f + 0x1p-8f).bits, 0x3f80);            // a tie goes to the even neighbour below
  EXPECT_EQ(to_bfloat16(1.f + 0x1p-7f + 0x1p-8f).bits, 0x3f82);  // and above
  EXPECT_EQ(to_bfloat16(1.f + 0x1p-8f + 0x1p-20f).bits, 0x3f81);
  EXPECT_EQ(to_bfloat16(-0.f).bits, 0x8000);
  EXPECT_EQ(to_bfloat16(std::numeric_limits<float>::infinity()).bits, 0x7f80);
  EXPECT_EQ(to_bfloat16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_TRUE(
      std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7f800001u)))));  // its upper half alone would be infinity
  for (uint32_t bits = 0; bits < 0x10000; bits += 7) {
    const float value = to_float(bfloat16{static_cast<uint16_t>(bits)});
    if (!std::isnan(value)) {
      EXPECT_EQ(to_bfloat16(value).bits, bits);
    }
  }
}

TEST(Shape, CountsElements) {
  EXPECT_EQ(Shape({2, 3, 4}).elements(), 24);
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ(Shape({5, 0}).elements(), 0);
  EXPECT_EQ(to_string(Shape({4, 384})), "[4, 384]");
  EXPECT_THROW(Shape({-1}), Error);
  EXPECT_THROW(Shape({1, 1, 1, 1, 1, 1}), Error);
}

TEST(View, SlicesAndReshapes) {
  Tensor tensor({}, DType::f32, {4, 3});
  for (int i = 0; i < 12; ++i) tensor.data<float>()[i] = static_cast<float>(i);
  const View view = tensor;
  EXPECT_EQ(view.rows(1, 2).shape(), Shape({2, 3}));
  EXPECT_EQ(view.rows(1, 2).data<float>()[0], 3.f);
  EXPECT_EQ(view.rows(4, 0).elements(), 0);
  EXPECT_EQ(view.reshape({2, 6}).rows(1, 1).data<float>()[0], 6.f);
  EXPECT_THROW(view.rows(3, 2), Error);
  EXPECT_THROW(view.rows(-1, 1), Error);
  EXPECT_THROW(view.reshape({5, 2}), Error);
  EXPECT_THROW(view.data<bfloat16>(), Error);
  EXPECT_FALSE(ConstView());
  EXPECT_TRUE(ConstView(view));
}

TEST(View, OfAMeasuringArenaIsNull) {
  Arena measure{Device{}};
  const View view = take(measure, DType::bf16, {3, 5});
  EXPECT_FALSE(view);
  EXPECT_FALSE(view.rows(1, 1));
  EXPECT_EQ(measure.peak_bytes(), 64u);
}

}  // namespace
}  // namespace nostos
