// Tests the preparation of reference images, against the sizes and pixels that the reference pipeline has.
#include "pipeline/reference_images.h"

#include <gtest/gtest.h>

#include <sstream>

#include "base/sha256.h"
#include "io/picture_files.h"
#include "io/test_files.h"

namespace nostos {
namespace {

ModelLimits limits_of(int64_t pixels, int64_t multiple) {
  return {.size_multiple = multiple, .max_reference_images = 4, .reference_pixels = pixels};
}

TEST(ReferenceImages, HaveTheReferencesSizes) {
  int64_t cases = 0;
  for (const std::string& line : lines_of("prepared_sizes.txt")) {
    std::istringstream fields(line);
    ImageSize given, wanted;
    int64_t pixels = 0, multiple = 0;
    fields >> given.width >> given.height >> pixels >> multiple >> wanted.width >> wanted.height;
    EXPECT_EQ(prepared_size(given, limits_of(pixels, multiple), "image[0]"), wanted) << line;
    ++cases;
  }
  EXPECT_EQ(cases, 300);
}

TEST(ReferenceImages, HaveTheReferencesPixels) {
  int64_t cases = 0;
  for (const std::string& line : lines_of("prepared_pixels.txt")) {
    std::istringstream fields(line);
    ImageSize given;
    int64_t pixels = 0, multiple = 0;
    std::string digest;
    fields >> given.height >> given.width >> pixels >> multiple >> digest;
    const ModelLimits limits = limits_of(pixels, multiple);
    const Image prepared = prepare_reference(noise_picture(given, false), limits, "image[0]");
    EXPECT_EQ(sha256(prepared.rgb), digest) << line;
    EXPECT_EQ((ImageSize{prepared.height, prepared.width}), prepared_size(given, limits, "image[0]"));
    ++cases;
  }
  EXPECT_EQ(cases, 3);
}

TEST(ReferenceImages, TooSmallAndTooLongOnesAreRefusedByName) {
  const ModelLimits limits = limits_of(1 << 20, 16);
  const auto refused = [&](ImageSize given, std::initializer_list<std::string_view> parts) {
    expect_error([&] { prepared_size(given, limits, "image[2] (cat.png)"); }, ErrorKind::invalid_input, parts);
  };
  refused({63, 400}, {"image[2] (cat.png)", "400x63", "at least 64"});
  refused({400, 63}, {"image[2] (cat.png)", "63x400"});
  refused({0, 0}, {"0x0"});
  refused({100, 801}, {"image[2] (cat.png)", "801x100", "at most 8 times"});
  refused({801, 100}, {"100x801"});
  EXPECT_EQ(prepared_size({100, 800}, limits, ""), (ImageSize{96, 800}));
  EXPECT_EQ(prepared_size({64, 512}, limits, ""), (ImageSize{64, 512}));
  expect_error(
      [&] {
        prepared_size({64, 64}, limits_of(1 << 20, 128), "image[0]");
      },
      ErrorKind::invalid_input, {"image[0]", "multiples of 128"});
}

}  // namespace
}  // namespace nostos
