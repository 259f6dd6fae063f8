// Tests what makes control images against OpenCV and Pillow.
#include "io/preprocess.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "base/sha256.h"
#include "io/picture_files.h"
#include "io/test_files.h"

namespace nostos {
namespace {

TEST(Preprocess, GivesTheReferencesBits) {
  int64_t cannies = 0, tiles = 0;
  for (const std::string& line : lines_of("control_images.txt")) {
    std::istringstream fields(line);
    std::string operation, digest;
    bool hard = false;
    ImageSize size;
    fields >> operation >> hard >> size.height >> size.width;
    const Image picture = noise_picture(size, hard);
    std::vector<uint8_t> pixels;
    if (operation == "tile") {
      pixels = blur_tiles(picture).rgb;
      ++tiles;
    } else {
      float radius = 0;
      int32_t low = 0, high = 0;
      int64_t edges = 0;
      fields >> radius >> low >> high >> edges;
      pixels = canny(gaussian_blur(grey_of(picture), radius), low, high).grey;
      EXPECT_EQ(std::ranges::count(pixels, 255), edges) << line;
      ++cannies;
    }
    fields >> digest;
    EXPECT_EQ(sha256(pixels).substr(0, 16), digest) << line;
  }
  EXPECT_EQ(cannies, 256);
  EXPECT_EQ(tiles, 16);
}

TEST(Preprocess, MakesImagesOfThreeChannels) {
  const Image picture = noise_picture({40, 30}, false);
  const GreyImage grey = grey_of(picture), edges = canny(grey, 100, 200);
  const Image of_grey = preprocess(picture, Preprocessor::gray), of_edges = preprocess(picture, Preprocessor::canny);
  ASSERT_EQ(of_grey.rgb.size(), picture.rgb.size());
  ASSERT_EQ(of_edges.rgb.size(), picture.rgb.size());
  for (size_t i = 0; i < picture.rgb.size(); ++i) {
    EXPECT_EQ(of_grey.rgb[i], grey.grey[i / 3]);
    EXPECT_EQ(of_edges.rgb[i], edges.grey[i / 3]);
  }
  EXPECT_EQ(preprocess(picture, Preprocessor::none), picture);
}

TEST(Preprocess, HasNames) {
  for (const Preprocessor kind : {Preprocessor::none, Preprocessor::canny, Preprocessor::gray, Preprocessor::tile})
    EXPECT_EQ(parse_preprocessor(name(kind)), kind);
  expect_error([] { parse_preprocessor("depth"); }, ErrorKind::invalid_input, {"'depth'", "none, canny, gray or tile"});
}

}  // namespace
}  // namespace nostos
