// Tests the reading of the files that --image and records name.
#include "apps/cli/image_files.h"

#include <gtest/gtest.h>

#include "base/sha256.h"
#include "io/test_files.h"

namespace nostos::cli {
namespace {

class ReferenceFiles : public FolderTest {
 protected:
  std::string picture(const std::string& name, uint8_t value) {
    const std::vector<uint8_t> png = encode_image(Image{2, 3, std::vector<uint8_t>(18, value)}, ImageFormat::png);
    return write(name, {reinterpret_cast<const char*>(png.data()), png.size()}).string();
  }
};

TEST_F(ReferenceFiles, AreDecodedAndHashed) {
  const std::vector<std::string> files{picture("a.png", 7), picture("b.png", 9)};
  const std::vector<ReferenceImage> images = read_images(files);
  ASSERT_EQ(images.size(), 2u);
  EXPECT_EQ(images[0].file, files[0]);
  EXPECT_EQ(images[0].size, (ImageSize{2, 3}));
  EXPECT_EQ(images[1].image->rgb, std::vector<uint8_t>(18, 9));
  const std::string bytes = slurp(files[1]);
  EXPECT_EQ(images[1].sha256, sha256({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
}

TEST_F(ReferenceFiles, WhatIsNoPictureIsRefusedByName) {
  const std::string text = write("text.png", "no picture").string();
  const std::string missing = (folder_ / "missing.png").string();
  for (const std::string& file : {text, missing, folder_.string()}) {
    expect_error([&] { read_images({&file, 1}); }, ErrorKind::invalid_input, {file});
  }
}

TEST_F(ReferenceFiles, OfARecordAreThoseThatItHad) {
  const std::vector<std::string> files{picture("a.png", 7), picture("b.png", 9)};
  const std::vector<ReferenceImage> recorded = read_images(files);
  EXPECT_EQ(read_recorded_images("the pictures with --image", recorded)[1].image->rgb, recorded[1].image->rgb);
  EXPECT_TRUE(read_recorded_images("the pictures with --image", {}).empty());
  const auto expect_told = [&](std::string_view why) {
    expect_error([&] { read_recorded_images("the pictures with --image", recorded); }, ErrorKind::invalid_input,
                 {why, files[0], files[1], recorded[0].sha256, recorded[1].sha256, "--image"});
  };
  picture("b.png", 8);
  expect_told("b.png is not the picture that it was");
  std::filesystem::remove(files[1]);
  expect_told("b.png");
  std::vector<ReferenceImage> nameless = recorded;
  nameless[0].file.clear();
  expect_error([&] { read_recorded_images("the pictures with --image", nameless); }, ErrorKind::invalid_input,
               {"without a name", "--image"});
}

}  // namespace
}  // namespace nostos::cli
