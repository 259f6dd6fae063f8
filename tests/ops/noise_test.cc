// Tests the noise of PyTorch's CUDA generator against its own values, and the sine that the host makes it with.
#include "ops/noise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "io/safetensors.h"
#include "ops/cpu/cuda_sine.h"
#include "ops/support.h"

namespace nostos {
namespace {

Tensor noise(uint64_t seed, const Shape& shape) {
  Context ctx({}, 2);
  Tensor made({}, DType::f32, shape);
  ops::philox_normal(ctx, seed, made);
  return made;
}

// Measured on the host: 2.4e-7 on these goldens of an H200, 4.8e-7 on 4 x 13 seeds and sizes up to 4,194,304 values of
// an H100; the difference is the last bit of the logarithm.
TEST(PhiloxNormal, WithinOneMillionthOfTorch) {
  const char* moved = std::getenv("NOSTOS_SOURCE_DIR");  // of a program that was carried to another machine
  const std::string root = moved != nullptr ? moved : NOSTOS_SOURCE_DIR;
  const SafetensorsFile goldens(root + "/tests/data/torch_randn.safetensors");
  for (const char* name : {"cuda_seed42_1x16x32x32", "cuda_seed42_1x16x90x90"}) {
    const ConstView expected = goldens.tensor(name);
    const Values bound(static_cast<size_t>(expected.elements()), 1e-6);
    expect_within(noise(42, expected.shape()), values(expected), bound, name);
  }
}

// torch.randn of [1, 16, 32, 32] twice from one generator.
TEST(PhiloxNormal, ASecondDrawGoesOnWhereTheFirstEnded) {
  const char* moved = std::getenv("NOSTOS_SOURCE_DIR");  // of a program that was carried to another machine
  const std::string root = moved != nullptr ? moved : NOSTOS_SOURCE_DIR;
  const SafetensorsFile goldens(root + "/tests/data/torch_randn.safetensors");
  const ConstView both = goldens.tensor("cuda_seed42_first_1x16x32x32_then_same");
  const int64_t size = both.elements() / 2;
  Context ctx({}, 2);
  Tensor made({}, DType::f32, {2, size});
  ops::philox_normal(ctx, 42, View(made).rows(0, 1));
  ops::philox_normal(ctx, 42, View(made).rows(1, 1), ops::philox_advance(size));
  expect_within(made, values(both), Values(static_cast<size_t>(both.elements()), 1e-6), "two draws");
}

TEST(PhiloxNormal, DrawsAdvanceByWholeRoundsOfTheGrid) {
  EXPECT_EQ(ops::philox_advance(0), 0u);
  EXPECT_EQ(ops::philox_advance(1), 4u);
  EXPECT_EQ(ops::philox_advance(1024), 4u);
  EXPECT_EQ(ops::philox_advance(4 * 270336), 4u);
  EXPECT_EQ(ops::philox_advance(4 * 270336 + 1), 8u);
  EXPECT_EQ(ops::philox_advance(9 * 4 * 270336), 36u);
  Context ctx({}, 2);
  Tensor made({}, DType::f32, {4});
  EXPECT_THROW(ops::philox_normal(ctx, 1, made, 2), Error);
}

// Values of the second round of a grid are those of a draw that begins there.
TEST(PhiloxNormal, AnOffsetIsARound) {
  constexpr int64_t kGrid = 4 * 270336;
  Context ctx({}, 2);
  Tensor whole({}, DType::f32, {kGrid + 1024}), rest({}, DType::f32, {1024});
  ops::philox_normal(ctx, 9, whole);
  ops::philox_normal(ctx, 9, rest, 4);
  const Values all = values(whole);
  // A thread makes one value here, the first of its round, which is its only one of the long draw's second round.
  EXPECT_EQ(values(rest), Values(all.begin() + kGrid, all.end()));
}

TEST(PhiloxNormal, FillsEveryValueAtEverySize) {
  // Below, at and above one block, one round of the whole grid (1056 blocks x 256 threads), and four values a thread.
  for (const int64_t size : {1, 255, 256, 257, 270336, 270337, 1081344, 1081345}) {
    Context ctx({}, 2);
    Guarded made(DType::f32, {size});
    ops::philox_normal(ctx, 7, made);
    made.expect_guards_untouched();
    double sum = 0, squares = 0;
    for (const double value : values(made)) {
      ASSERT_TRUE(std::isfinite(value)) << size;
      sum += value, squares += value * value;
    }
    if (size < 270336) continue;
    // Five standard errors of mean and variance.
    const auto count = static_cast<double>(size);
    EXPECT_NEAR(sum / count, 0, 5 / std::sqrt(count)) << size;
    EXPECT_NEAR(squares / count, 1, 5 * std::sqrt(2.0 / count)) << size;
  }
}

TEST(PhiloxNormal, NoValuesIsValid) { EXPECT_NO_THROW(noise(1, {0})); }

TEST(PhiloxNormal, TakesAllBitsOfASeed) {
  EXPECT_NE(values(noise(1, {64})), values(noise(2, {64})));
  EXPECT_NE(values(noise(1, {64})), values(noise((uint64_t{1} << 32) + 1, {64})));
}

// What an H100 gives where neighbouring rules (rounding of the turn, reflection of a quadrant) would give another
// float.
TEST(CudaSine, EqualsTheCard) {
  EXPECT_EQ(cuda_sincos(1.31387787e-06f).cos, 0.99999994f);
  EXPECT_EQ(cuda_sincos(0.000976845622f).cos, 0.999999523f);
  EXPECT_EQ(cuda_sincos(0.501079559f).cos, 0.877064466f);
  EXPECT_EQ(cuda_sincos(1.57079625f).cos, 0.0f);
  EXPECT_EQ(cuda_sincos(1.57378781f).sin, 0.99999547f);
  EXPECT_EQ(cuda_sincos(3.1415925f).sin, 1.87261321e-07f);
  EXPECT_EQ(cuda_sincos(3.14818096f).cos, -0.999978304f);
  EXPECT_EQ(cuda_sincos(4.71238899f).cos, -1.87261321e-07f);
  EXPECT_EQ(cuda_sincos(4.71347237f).sin, -0.999999404f);
}

// The table errs by up to 4e-7, the angle's rounding to 2^-24 turns by as much again.
TEST(CudaSine, IsASine) {
  for (int i = 0; i <= 100000; ++i) {
    const float angle = 6.2831855f * static_cast<float>(i) / 100000;
    const SinCos got = cuda_sincos(angle);
    ASSERT_NEAR(got.sin, std::sin(static_cast<double>(angle)), 8e-7) << angle;
    ASSERT_NEAR(got.cos, std::cos(static_cast<double>(angle)), 8e-7) << angle;
  }
}

}  // namespace
}  // namespace nostos
