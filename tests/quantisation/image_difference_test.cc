// Tests PSNR and SSIM against scikit-image 0.26's numbers for the same images.
#include "quantisation/image_difference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace nostos {
namespace {

/// \param change the most by which a pattern changes the numbers
Image pattern(int64_t height, int64_t width, int64_t change) {
  Image made{height, width, {}};
  for (int64_t i = 0; i < height * width * 3; ++i) {
    const int64_t x = i / 3 % width, y = i / 3 / width;
    const int64_t value = (x * 9 + y * 5 + i % 3 * 40 + x * y % 17 * 4) % 256;
    const int64_t changed = change == 0 ? value : value + i * 37 % (2 * change + 1) - change;
    made.rgb.push_back(static_cast<uint8_t>(std::clamp<int64_t>(changed, 0, 255)));
  }
  return made;
}

TEST(ImageDifference, IsThatOfScikitImage) {
  struct Case {
    int64_t height, width, change;
    double ssim, psnr;
  };
  for (const Case& c : {Case{24, 19, 3, 0.9983411575, 42.1380712525}, Case{24, 19, 40, 0.8347878395, 21.1616285941},
                        Case{11, 11, 9, 0.9758722556, 33.3512243013}, Case{40, 33, 100, 0.4763070378, 13.8330993876}}) {
    const Image a = pattern(c.height, c.width, 0), b = pattern(c.height, c.width, c.change);
    EXPECT_NEAR(ssim(a, b), c.ssim, 1e-9);
    EXPECT_NEAR(ssim(b, a), c.ssim, 1e-9);
    EXPECT_NEAR(psnr(a, b), c.psnr, 1e-9);
  }
}

TEST(ImageDifference, OfEqualImagesIsNone) {
  const Image image = pattern(24, 19, 0), black{12, 12, std::vector<uint8_t>(12 * 12 * 3)};
  EXPECT_DOUBLE_EQ(ssim(image, image), 1);
  EXPECT_DOUBLE_EQ(ssim(black, black), 1);
  EXPECT_TRUE(std::isinf(psnr(image, image)));
}

TEST(ImageDifference, RefusesOtherSizes) {
  EXPECT_THROW(ssim(pattern(24, 19, 0), pattern(19, 24, 0)), Error);
  EXPECT_THROW(psnr(pattern(24, 19, 0), pattern(24, 20, 0)), Error);
  EXPECT_THROW(ssim(pattern(10, 19, 0), pattern(10, 19, 0)), Error);
}

}  // namespace
}  // namespace nostos
