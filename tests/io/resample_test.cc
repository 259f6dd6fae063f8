// Tests resampling against Pillow's pixels, and cropping.
#include "io/resample.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "base/sha256.h"
#include "io/picture_files.h"
#include "io/test_files.h"

namespace nostos {
namespace {

TEST(Resample, GivesPillowsBits) {
  int64_t cases = 0;
  for (const std::string& line : lines_of("lanczos.txt")) {
    std::istringstream fields(line);
    bool hard = false;
    ImageSize from, to;
    std::string digest;
    fields >> hard >> from.height >> from.width >> to.height >> to.width >> digest;
    const Image made = resample_lanczos(noise_picture(from, hard), to);
    EXPECT_EQ(sha256(made.rgb), digest) << line;
    EXPECT_EQ(made.height, to.height);
    EXPECT_EQ(made.width, to.width);
    ++cases;
  }
  EXPECT_EQ(cases, 220);
}

TEST(Resample, TheSameSizeIsTheSamePicture) {
  const Image picture = noise_picture({9, 14}, false);
  EXPECT_EQ(resample_lanczos(picture, {9, 14}), picture);
  expect_error([&] { resample_lanczos(picture, {0, 14}); }, ErrorKind::internal, {"pixels"});
  expect_error([] { resample_lanczos(Image{}, {2, 2}); }, ErrorKind::internal, {"pixels"});
}

TEST(Crop, IsCentredAndRoundsTowardsTheTopLeft) {
  const Image picture = noise_picture({5, 6}, false);
  EXPECT_EQ(crop_centre(picture, {5, 6}), picture);
  const Image cropped = crop_centre(picture, {2, 3});
  for (size_t y = 0; y < 2; ++y) {
    for (size_t x = 0; x < 9; ++x)
      EXPECT_EQ(cropped.rgb[y * 9 + x], picture.rgb[(y + 1) * 18 + 3 + x]) << y << " " << x;
  }
  expect_error([&] { crop_centre(picture, {6, 6}); }, ErrorKind::internal, {"within"});
  expect_error([&] { crop_centre(picture, {0, 6}); }, ErrorKind::internal, {"within"});
}

}  // namespace
}  // namespace nostos
