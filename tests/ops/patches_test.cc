// Tests moves between latents, tokens and images, which are all exact.
#include "ops/patches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "ops/support.h"

namespace nostos {
namespace {

using reference::at;

TEST(Patches, PatchifyEqualsReferenceAndUnpatchifyUndoesIt) {
  Context ctx({}, 2);
  struct Case {
    int64_t channels, height, width, patch;
  };
  for (const Case& c :
       {Case{1, 2, 2, 2}, {16, 2, 62, 2}, {16, 64, 66, 2}, {4, 6, 130, 2}, {3, 9, 6, 3}, {16, 5, 7, 1}}) {
    const Tensor latents = random_tensor(DType::f32, {c.channels, c.height, c.width}, 1);
    Guarded tokens(DType::f32, {c.height / c.patch * (c.width / c.patch), c.patch * c.patch * c.channels});
    Guarded back(DType::f32, {c.channels, c.height, c.width});
    ops::patchify(ctx, latents, c.patch, tokens);
    EXPECT_EQ(values(tokens), reference::patchify(values(latents), c.channels, c.height, c.width, c.patch));
    ops::unpatchify(ctx, tokens, c.patch, back);
    EXPECT_TRUE(same_bits(latents, back));
    tokens.expect_guards_untouched();
    back.expect_guards_untouched();
  }
}

TEST(Patches, LatentsToImageDividesShiftsAndMovesChannelsLast) {
  Context ctx({}, 2);
  constexpr float kScale = 0.3611f, kShift = 0.1159f;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [channels, height, width] : {std::array{1, 1, 1}, {16, 31, 33}, {4, 2, 65}}) {
      const Tensor latents = random_tensor(DType::f32, {channels, height, width}, 1, -4, 4);
      Guarded image(dtype, {height, width, channels});
      ops::latents_to_image(ctx, latents, kScale, kShift, image);
      for (int64_t i = 0; i < latents.shape().elements(); ++i) {
        const int64_t channel = i / (height * width), pixel = i % (height * width);
        const float divided = latents.data<float>()[i] / kScale, expected = divided + kShift;
        const double wanted = static_cast<double>(dtype == DType::f32 ? expected : to_float(to_bfloat16(expected)));
        ASSERT_EQ(value_at(image, pixel * channels + channel), wanted);
      }
      image.expect_guards_untouched();
    }
  }
}

// "(c ph pw) h w -> (h ph) (w pw) c", as einops writes it.
TEST(Patches, PackedLatentsAreUnpackedAndPackedAgain) {
  Context ctx({}, 2);
  for (const auto& [channels, height, width, patch] :
       {std::array{1, 1, 1, 2}, {3, 5, 4, 2}, {32, 6, 33, 2}, {2, 3, 2, 3}}) {
    const int64_t packed_channels = int64_t{channels} * patch * patch, all_rows = int64_t{height} * patch,
                  all_columns = int64_t{width} * patch;
    const Tensor packed = random_tensor(DType::f32, {packed_channels, height, width}, 1, -4, 4),
                 mean = random_tensor(DType::f32, {packed_channels}, 2),
                 var = random_tensor(DType::f32, {packed_channels}, 3, 0.5f, 3);
    const ops::ChannelStatistics norm{mean, var, 1e-4f};
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Guarded image(dtype, {all_rows, all_columns, channels});
      ops::unpack_latents(ctx, packed, patch, norm, image);
      for (int64_t y = 0; y < all_rows; ++y) {
        for (int64_t x = 0; x < all_columns; ++x) {
          for (int64_t c = 0; c < channels; ++c) {
            const int64_t from = (c * patch + y % patch) * patch + x % patch;
            const double value =
                static_cast<double>(packed.data<float>()[(from * height + y / patch) * width + x / patch]);
            const double deviation = std::sqrt(static_cast<double>(var.data<float>()[from]) + 1e-4);
            const double wanted = value * deviation + static_cast<double>(mean.data<float>()[from]);
            const double bound = (std::abs(value * deviation) + std::abs(wanted)) * (3 * kUnitF32 + unit(dtype));
            ASSERT_NEAR(value_at(image, (y * all_columns + x) * channels + c), wanted, bound);
          }
        }
      }
      image.expect_guards_untouched();
    }
    // An image of more channels, of which the first are packed, as means stand before variances.
    Tensor image({}, DType::f32, {all_rows, all_columns, channels}),
        wider({}, DType::f32, {all_rows, all_columns, channels + 2});
    ops::unpack_latents(ctx, packed, patch, norm, image);
    std::fill_n(wider.data<float>(), wider.shape().elements(), 7.f);
    for (int64_t pixel = 0; pixel < all_rows * all_columns; ++pixel)
      std::copy_n(image.data<float>() + pixel * channels, channels, wider.data<float>() + pixel * (channels + 2));
    Guarded tokens(DType::f32, {int64_t{height} * width, packed_channels});
    ops::pack_latents(ctx, wider, patch, norm, tokens);
    for (int64_t token = 0; token < height * width; ++token) {
      for (int64_t c = 0; c < packed_channels; ++c) {
        const double wanted = static_cast<double>(packed.data<float>()[c * height * width + token]);
        ASSERT_NEAR(value_at(tokens, token * packed_channels + c), wanted, 16 * kUnitF32 * (std::abs(wanted) + 2));
      }
    }
    tokens.expect_guards_untouched();
  }
}

TEST(Patches, UpsampleRepeatsEveryPixel) {
  Context ctx({}, 2);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [height, width, channels] : {std::array{1, 1, 1}, {3, 5, 33}, {8, 31, 64}}) {
      const Tensor x = random_tensor(DType::f32, {height, width, channels}, 1);
      Guarded out(dtype, {2 * height, 2 * width, channels});
      ops::upsample_nearest_2x(ctx, x, out);
      for (int64_t row = 0; row < 2 * height; ++row) {
        for (int64_t column = 0; column < 2 * width; ++column) {
          for (int64_t c = 0; c < channels; ++c) {
            const float from = x.data<float>()[(row / 2 * width + column / 2) * channels + c];
            const double wanted = static_cast<double>(dtype == DType::f32 ? from : to_float(to_bfloat16(from)));
            ASSERT_EQ(value_at(out, (row * 2 * width + column) * channels + c), wanted);
          }
        }
      }
      out.expect_guards_untouched();
    }
  }
}

TEST(Patches, ToPixelsClampsAndRoundsHalvesToEven) {
  Context ctx({}, 1);
  // Values whose 255 * (x / 2 + 0.5) is exactly k + 0.5 in float32, searched for among the neighbours of (2k + 1) / 255
  // - 1.
  std::vector<float> halves;
  std::vector<uint8_t> rounded;
  for (int k = 0; k < 255; ++k) {
    float x = static_cast<float>((2.0 * k + 1) / 255 - 1);
    for (int i = 0; i < 8; ++i) x = std::nextafter(x, -2.f);
    for (int i = 0; i < 16; ++i, x = std::nextafter(x, 2.f)) {
      if ((x / 2 + 0.5f) * 255.f != static_cast<float>(k) + 0.5f) continue;
      halves.push_back(x);
      rounded.push_back(static_cast<uint8_t>(k % 2 == 0 ? k : k + 1));
    }
  }
  EXPECT_GE(halves.size(), 255u);
  const std::pair<float, uint8_t> others[] = {{-1.f, 0},
                                              {1.f, 255},
                                              {-5.f, 0},
                                              {7.f, 255},
                                              {0.f, 128},
                                              {-0.999f, 0},
                                              {0.999f, 255},
                                              {std::numeric_limits<float>::infinity(), 255},
                                              {-std::numeric_limits<float>::infinity(), 0},
                                              {std::numeric_limits<float>::quiet_NaN(), 0}};
  for (const auto& [x, pixel] : others) halves.push_back(x), rounded.push_back(pixel);
  const int64_t n = static_cast<int64_t>(halves.size());
  Tensor x(Device{}, DType::f32, {n});
  std::memcpy(x.data<float>(), halves.data(), x.size_in_bytes());
  Guarded out(DType::u8, {n});
  Tensor invalid = cleared_flag();
  ops::to_pixels(ctx, x, out, invalid);
  for (int64_t i = 0; i < n; ++i) EXPECT_EQ(int{out.view().data<uint8_t>()[i]}, int{rounded[at(i)]}) << halves[at(i)];
  out.expect_guards_untouched();
}

TEST(Patches, ToPixelsAtEverySize) {
  Context ctx({}, 2);
  for (const int64_t n : {0, 1, 31, 33, 65, 40000}) {
    const Tensor x = random_tensor(DType::f32, {n}, 1, -1.2f, 1.2f);
    Guarded out(DType::u8, {n});
    Tensor invalid = cleared_flag();
    ops::to_pixels(ctx, x, out, invalid);
    EXPECT_EQ(*invalid.data<int32_t>(), 0);
    for (int64_t i = 0; i < n; ++i) {
      const float unit = std::clamp(x.data<float>()[i] / 2 + 0.5f, 0.f, 1.f);
      ASSERT_EQ(int{out.view().data<uint8_t>()[i]}, static_cast<int>(std::nearbyint(unit * 255.f)));
    }
    out.expect_guards_untouched();
  }
}

TEST(Patches, ToPixelsFindsEveryInvalidValue) {
  Context ctx({}, 2);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const int64_t n : {1, 33, 40000}) {
    for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
      for (const int64_t at : {int64_t{0}, n / 2, n - 1}) {
        Tensor x = random_tensor(DType::f32, {n}, 1);
        x.data<float>()[at] = bad;
        Guarded out(DType::u8, {n});
        Tensor invalid = cleared_flag();
        ops::to_pixels(ctx, x, out, invalid);
        EXPECT_EQ(*invalid.data<int32_t>(), 1) << n << " at " << at;
        x.data<float>()[at] = 0;
        ops::to_pixels(ctx, x, out, invalid);
        EXPECT_EQ(*invalid.data<int32_t>(), 1) << "it stays";
      }
    }
  }
}

TEST(Patches, FromPixelsRoundsEachOperation) {
  Context ctx({}, 2);
  for (const int64_t n : {0, 1, 33, 256, 40000}) {
    Tensor x(Device{}, DType::u8, {n});
    for (int64_t i = 0; i < n; ++i) x.data<uint8_t>()[i] = static_cast<uint8_t>(i);
    Guarded out(DType::f32, {n});
    ops::from_pixels(ctx, x, out);
    for (int64_t i = 0; i < n; ++i) {
      const volatile float unit = static_cast<float>(i % 256) / 255.0f, twice = 2.0f * unit;
      ASSERT_EQ(out.view().data<float>()[i], twice - 1.0f) << i;
    }
    out.expect_guards_untouched();
  }
}

TEST(Patches, WrongShapesAreRefused) {
  Context ctx({}, 1);
  const Tensor latents = random_tensor(DType::f32, {4, 6, 7}, 1), even = random_tensor(DType::f32, {4, 6, 8}, 1);
  Guarded tokens(DType::f32, {12, 16}), image(DType::f32, {6, 8, 4}), narrow(DType::f32, {6, 7, 4}),
      bytes(DType::u8, {3});
  EXPECT_NO_THROW(ops::patchify(ctx, even, 2, tokens));
  EXPECT_THROW(ops::patchify(ctx, latents, 2, tokens), Error);
  EXPECT_THROW(ops::unpatchify(ctx, even, 2, View(tokens)), Error);
  EXPECT_NO_THROW(ops::latents_to_image(ctx, even, 1, 0, image));
  EXPECT_THROW(ops::latents_to_image(ctx, even, 1, 0, narrow), Error);
  EXPECT_THROW(ops::upsample_nearest_2x(ctx, even, image), Error);
  Tensor invalid = cleared_flag();
  EXPECT_THROW(ops::to_pixels(ctx, even, bytes, invalid), Error);
  EXPECT_THROW(ops::from_pixels(ctx, even, bytes), Error);
  EXPECT_THROW(ops::to_pixels(ctx, even.view().rows(0, 1).reshape({48}).rows(0, 3), bytes, bytes), Error);
}

}  // namespace
}  // namespace nostos
