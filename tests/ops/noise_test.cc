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
