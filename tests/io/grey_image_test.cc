// Tests masks and the fitting of pictures against what Pillow, PyTorch and diffusers make of them.
#include "io/grey_image.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <map>
#include <sstream>
#include <type_traits>

#include "base/sha256.h"
#include "io/picture_files.h"
#include "io/resample.h"
#include "io/test_files.h"

namespace nostos {
namespace {

/// An operation's numbers as a line of mask_operations.txt has them.
class Numbers {
 public:
  explicit Numbers(std::istringstream& fields) : fields_(fields) {}
  Image picture(bool may_be_hard = true) {
    const bool hard = may_be_hard && next() != 0;
    return noise_picture(size(), hard);
  }
  GreyImage grey() { return grey_of(picture()); }
  GreyImage binary() { return binary_of(grey_of(picture(false))); }
  ImageSize size() {
    const double height = next();
    return {static_cast<int64_t>(height), static_cast<int64_t>(next())};
  }
  double next() {
    double value = 0;
    fields_ >> value;
    return value;
  }

 private:
  std::istringstream& fields_;
};

std::vector<uint8_t> quarters(const std::vector<float>& values) {
  std::vector<uint8_t> made;
  for (const float value : values) {
    EXPECT_EQ(value * 4, static_cast<float>(static_cast<int>(value * 4)));
    made.push_back(static_cast<uint8_t>(value * 4));
  }
  return made;
}

using Pixels = std::vector<uint8_t>;

template <class Picture>
Pixels fitted(const Picture& picture, Numbers& numbers, ImageFit kind) {
  const Picture made = fit(picture, numbers.size(), kind);
  if constexpr (std::is_same_v<Picture, Image>)
    return made.rgb;
  else
    return made.grey;
}

const std::map<std::string, std::function<Pixels(Numbers&)>>& operations() {
  using N = Numbers;
  static const std::map<std::string, std::function<Pixels(N&)>> made = {
      {"grey", [](N& n) { return n.grey().grey; }},
      {"grey_lanczos",
       [](N& n) {
         const GreyImage grey = n.grey();
         return resample_lanczos(grey, n.size()).grey;
       }},
      {"grey_nearest",
       [](N& n) {
         const GreyImage grey = n.grey();
         return resample_nearest(grey, n.size()).grey;
       }},
      {"rgb_nearest",
       [](N& n) {
         const Image rgb = n.picture();
         return resample_nearest(rgb, n.size()).rgb;
       }},
      {"blur",
       [](N& n) {
         const GreyImage grey = n.grey();
         return gaussian_blur(grey, static_cast<float>(n.next())).grey;
       }},
      {"binary", [](N& n) { return n.binary().grey; }},
      {"latent_nearest",
       [](N& n) {
         const GreyImage mask = n.binary();
         return interpolate_nearest(mask, n.size()).grey;
       }},
      {"latent_bilinear",
       [](N& n) {
         const GreyImage mask = n.binary();
         return quarters(interpolate_bilinear(mask, n.size()));
       }},
      {"mask",
       [](N& n) {
         const Image rgb = n.picture(false);
         return binary_of(grey_of(resample_lanczos(rgb, n.size()))).grey;
       }},
      {"crop", [](N& n) { return fitted(n.picture(), n, ImageFit::crop); }},
      {"pad", [](N& n) { return fitted(n.picture(), n, ImageFit::pad); }},
      {"grey_crop", [](N& n) { return fitted(n.grey(), n, ImageFit::crop); }},
      {"grey_pad", [](N& n) { return fitted(n.grey(), n, ImageFit::pad); }},
  };
  return made;
}

TEST(GreyImage, OperationsGiveTheReferencesBits) {
  std::map<std::string, int> cases;
  for (const std::string& line : lines_of("mask_operations.txt")) {
    std::istringstream fields(line);
    std::string operation, digest;
    fields >> operation;
    Numbers numbers(fields);
    const Pixels pixels = operations().at(operation)(numbers);
    fields >> digest;
    EXPECT_EQ(sha256(pixels).substr(0, 16), digest) << line;
    ++cases[operation];
  }
  const std::map<std::string, int> expected = {
      {"grey", 18},      {"grey_lanczos", 144},  {"grey_nearest", 144}, {"rgb_nearest", 12}, {"blur", 162},
      {"binary", 9},     {"latent_nearest", 78}, {"mask", 9},           {"crop", 144},       {"pad", 144},
      {"grey_crop", 72}, {"latent_bilinear", 6}, {"grey_pad", 72}};
  EXPECT_EQ(cases, expected);
}

// Neither of their lists has these.
TEST(GreyImage, HalfIsWhite) {
  const GreyImage mask{1, 4, {0, 127, 128, 255}};
  EXPECT_EQ(binary_of(mask), (GreyImage{1, 4, {0, 0, 255, 255}}));
}

TEST(GreyImage, GreyStaysAsItIs) {
  Image image{1, 256, {}};
  for (int value = 0; value < 256; ++value) image.rgb.insert(image.rgb.end(), 3, static_cast<uint8_t>(value));
  const GreyImage grey = grey_of(image);
  for (size_t value = 0; value < 256; ++value) EXPECT_EQ(grey.grey[value], value);
}

TEST(GreyImage, ABlurOfNothingChangesNothingAndBadOnesAreRefused) {
  const GreyImage image = grey_of(noise_picture({5, 7}, false));
  EXPECT_EQ(gaussian_blur(image, 0), image);
  EXPECT_EQ(gaussian_blur(GreyImage{}, 3), GreyImage{});
  for (const float radius : {-1.0f, 1001.0f, std::numeric_limits<float>::quiet_NaN()})
    expect_error([&] { gaussian_blur(image, radius); }, ErrorKind::invalid_input, {"radius", "1000"});
}

TEST(GreyImage, ABlurOfOneColourIsThatColour) {
  for (const float radius : {0.3f, 5.0f, 1000.0f}) {
    const GreyImage image{9, 4, std::vector<uint8_t>(36, 255)};
    EXPECT_EQ(gaussian_blur(image, radius), image) << radius;
  }
}

TEST(GreyImage, TokensNeedEvenMultiples) {
  const GreyImage image = grey_of(noise_picture({6, 8}, false));
  expect_error([&] { interpolate_bilinear(image, {2, 4}); }, ErrorKind::internal, {"even"});
  EXPECT_EQ(interpolate_bilinear(image, {3, 4}).size(), 12u);
}

TEST(Fit, NamesRoundTrip) {
  for (const ImageFit kind : {ImageFit::crop, ImageFit::pad, ImageFit::stretch})
    EXPECT_EQ(parse_image_fit(name(kind)), kind);
  expect_error([] { parse_image_fit("cover"); }, ErrorKind::invalid_input, {"cover", "crop, pad, stretch"});
}

TEST(Fit, StretchResamples) {
  const Image picture = noise_picture({9, 14}, false);
  EXPECT_EQ(fit(picture, {20, 6}, ImageFit::stretch), resample_lanczos(picture, {20, 6}));
  for (const ImageFit kind : {ImageFit::crop, ImageFit::pad, ImageFit::stretch})
    EXPECT_EQ(fit(picture, {9, 14}, kind), picture) << name(kind);
}

// The reference leaves the last line black here, and refuses the second picture.
TEST(Fit, PadFillsOddSizesAndKeepsALine) {
  const Image white{14, 17, std::vector<uint8_t>(14 * 17 * 3, 255)};
  EXPECT_EQ(fit(white, {17, 17}, ImageFit::pad).rgb, std::vector<uint8_t>(17 * 17 * 3, 255));
  const Image thin{1, 900, std::vector<uint8_t>(900 * 3, 255)};
  EXPECT_EQ(fit(thin, {16, 16}, ImageFit::pad).rgb, std::vector<uint8_t>(16 * 16 * 3, 255));
}

DecodedMask mask_in(const std::string& file) {
  const std::string text = slurp(NOSTOS_SOURCE_DIR "/tests/data/io/pictures/" + file);
  return decode_mask({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

TEST(DecodeMask, IsWhiteWhereAlphaIsBelowHalf) {
  GreyImage wanted{23, 37, {}};
  for (int64_t y = 0; y < wanted.height; ++y)
    for (int64_t x = 0; x < wanted.width; ++x) wanted.grey.push_back((x * 11 + y * 5) % 256 < 128 ? 255 : 0);
  for (const char* file : {"alpha.png", "grey_alpha.png", "alpha.webp"}) {
    const DecodedMask mask = mask_in(file);
    EXPECT_TRUE(mask.is_by_transparency) << file;
    EXPECT_EQ(mask.grey, wanted) << file;
  }
  // One colour of a palette, or of a PNG without alpha, is transparent.
  for (const char* file : {"palette_alpha.png", "colour_key.png", "rgba16.png"})
    EXPECT_TRUE(mask_in(file).is_by_transparency) << file;
}

TEST(DecodeMask, IsThePicturesGreyWithoutTransparency) {
  for (const char* file : {"alpha.png.png", "baseline.jpg", "grey16.png", "lossy.webp", "turned6.jpg"}) {
    const DecodedMask mask = mask_in(file);
    const std::string text = slurp(NOSTOS_SOURCE_DIR "/tests/data/io/pictures/" + std::string(file));
    EXPECT_FALSE(mask.is_by_transparency) << file;
    EXPECT_EQ(mask.grey, grey_of(decode_image({reinterpret_cast<const uint8_t*>(text.data()), text.size()}))) << file;
  }
}

}  // namespace
}  // namespace nostos
