// Tests the reading of pictures: against Pillow's pixels, and with hostile files.

// jpeglib.h uses FILE and size_t without including them.
#include <cstddef>
#include <cstdio>

#include <gtest/gtest.h>
#include <jpeglib.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "io/exif.h"
#include "io/image.h"
#include "io/picture_files.h"
#include "io/test_files.h"

namespace nostos {
namespace {

const std::string kPictures = NOSTOS_SOURCE_DIR "/tests/data/io/pictures/";

std::vector<uint8_t> picture_file(const std::string& name) {
  const std::string text = slurp(kPictures + name);
  return {text.begin(), text.end()};
}

void expect_refused(std::span<const uint8_t> bytes, std::initializer_list<std::string_view> parts,
                    const ImageLimits& limits = {}) {
  expect_error([&] { decode_image(bytes, limits); }, ErrorKind::invalid_input, parts);
}

TEST(DecodeImage, GivesThePixelsOfTheFixtures) {
  int64_t cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kPictures)) {
    const std::string name = entry.path().filename().string();
    if (!std::filesystem::exists(kPictures + name + ".png")) continue;
    const Image made = decode_image(picture_file(name));
    const Image wanted = decode_image(picture_file(name + ".png"));
    EXPECT_EQ(made.height, wanted.height) << name;
    EXPECT_EQ(made.width, wanted.width) << name;
    ASSERT_EQ(made.rgb.size(), wanted.rgb.size()) << name;
    size_t different = 0;
    int worst = 0;
    for (size_t i = 0; i < made.rgb.size(); ++i) {
      const int difference = std::abs(int{made.rgb[i]} - int{wanted.rgb[i]});
      different += difference > 0;
      worst = std::max(worst, difference);
    }
    EXPECT_EQ(different, 0u) << name << ": bytes of " << made.rgb.size() << ", by at most " << worst;
    ++cases;
  }
  EXPECT_EQ(cases, 37);
}

TEST(DecodeImage, TheHeaderAloneSaysTheSize) {
  for (const auto& entry : std::filesystem::directory_iterator(kPictures)) {
    const std::vector<uint8_t> file = picture_file(entry.path().filename().string());
    const Image image = decode_image(file);
    EXPECT_EQ(read_image_size(file), (ImageSize{image.height, image.width})) << entry.path();
  }
  // Pixels that cannot be read make no difference.
  std::vector<uint8_t> png = picture_file("alpha.png");
  png[png.size() - 13] ^= 1;
  EXPECT_EQ(read_image_size(png), (ImageSize{23, 37}));
  const std::vector<uint8_t> jpeg = picture_file("baseline.jpg");
  EXPECT_EQ(read_image_size(std::span(jpeg).first(700)), (ImageSize{23, 37}));
}

TEST(DecodeImage, AFileThatEndsEarlyIsRefusedAtEveryLength) {
  for (const char* name : {"alpha.png", "interlaced.png", "turned6.jpg", "progressive.jpg", "cmyk.jpg", "lossy.webp",
                           "alpha.webp", "turned.webp", "animated.webp"}) {
    const std::vector<uint8_t> file = picture_file(name);
    // The marker that ends a baseline JPEG tells nothing of its pixels.
    const size_t needed = std::string_view(name).ends_with("jpg") ? file.size() - 2 : file.size();
    for (size_t length = 0; length < needed; ++length) {
      try {
        decode_image(std::span(file).first(length));
        ADD_FAILURE() << name << " is taken with " << length << " of " << file.size() << " bytes";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::invalid_input) << name << " " << length << ": " << error.what();
      }
    }
  }
}

TEST(DecodeImage, AFlippedBitDoesNotCrash) {
  for (const char* name : {"palette_alpha.png", "turned6.jpg", "progressive.jpg", "lossy.webp", "animated.webp"}) {
    const std::vector<uint8_t> file = picture_file(name);
    for (size_t bit = 0; bit < file.size() * 8; bit += 3) {
      std::vector<uint8_t> damaged = file;
      damaged[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
      try {
        const Image image = decode_image(damaged, {.side = 4096, .pixels = 1 << 20});
        EXPECT_EQ(image.rgb.size(), static_cast<size_t>(image.height * image.width * 3));
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::invalid_input) << name << " " << bit << ": " << error.what();
      }
    }
  }
}

TEST(DecodeImage, AWrongChecksumIsRefused) {
  std::vector<uint8_t> png = picture_file("alpha.png");
  png[png.size() - 13] ^= 1;  // of the IDAT's
  expect_refused(png, {"damaged PNG", "CRC"});
}

TEST(DecodeImage, OtherFilesAreRefused) {
  const auto refused = [](std::string_view text, std::string_view part) {
    expect_refused({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, {part});
  };
  refused("", "empty");
  using std::string_view_literals::operator""sv;
  refused("GIF89a\1\0\1\0"sv, "no PNG, JPEG or WebP");
  refused("BM", "no PNG, JPEG or WebP");
  refused("<svg/>", "no PNG, JPEG or WebP");
  refused("RIFF\4\0\0\0WAVE"sv, "no PNG, JPEG or WebP");
  refused("RIFF\4\0\0\0WEBP"sv, "damaged WebP");
  refused("\x89PNG", "not a PNG");
  refused("\xff\xd8", "damaged JPEG");
  refused("\xff\xd8\xff\xd9", "damaged JPEG");
}

TEST(DecodeImage, LimitsAreLookedAtInTheHeader) {
  const std::vector<uint8_t> png = picture_file("interlaced.png");  // 37x23
  EXPECT_NO_THROW(decode_image(png, {.side = 37, .pixels = 37 * 23}));
  for (const char* name : {"interlaced.png", "baseline.jpg", "turned6.jpg", "lossy.webp", "animated.webp"}) {
    const std::vector<uint8_t> file = picture_file(name);
    expect_refused(file, {"37x23", "at most 36 a side"}, {.side = 36});
    expect_refused(file, {"37x23", "850 in all"}, {.pixels = 850});
    expect_refused(file, {"at most 100 are read"}, {.bytes = 100});
    expect_error([&] { read_image_size(file, {.side = 36}); }, ErrorKind::invalid_input, {"37x23", "36 a side"});
  }
}

/// \return the file with the 16-bit sides in its JPEG frame header replaced.
std::vector<uint8_t> with_jpeg_size(std::vector<uint8_t> file, uint16_t height, uint16_t width) {
  for (size_t i = 2; i + 9 < file.size(); ++i) {
    if (file[i] != 0xff || (file[i + 1] != 0xc0 && file[i + 1] != 0xc2)) continue;
    file[i + 5] = static_cast<uint8_t>(height >> 8), file[i + 6] = static_cast<uint8_t>(height);
    file[i + 7] = static_cast<uint8_t>(width >> 8), file[i + 8] = static_cast<uint8_t>(width);
    return file;
  }
  ADD_FAILURE() << "the JPEG has no frame header";
  return file;
}

TEST(DecodeImage, HugeAndEmptySizesAreRefused) {
  for (const char* name : {"baseline.jpg", "progressive.jpg"}) {
    expect_refused(with_jpeg_size(picture_file(name), 65500, 65500), {"65500x65500", "at most 16384"});
    expect_refused(with_jpeg_size(picture_file(name), 23, 0), {"JPEG"});
    expect_refused(with_jpeg_size(picture_file(name), 0, 37), {"JPEG"});
    expect_refused(with_jpeg_size(picture_file(name), 900, 900), {"damaged JPEG"});
  }
  std::vector<uint8_t> webp = picture_file("animated.webp");  // canvas in 24 bits less one at 24 and 27
  std::fill_n(webp.begin() + 24, 2, uint8_t{0xff});
  expect_refused(webp, {"65536x23", "at most 16384"});
  webp = picture_file("animated.webp");
  webp[24] = 10;  // frames no longer lie within
  expect_refused(webp, {"damaged WebP"});
}

/// \return a progressive JPEG of a grey picture that has a scan for each of the first `scans` coefficients.
std::vector<uint8_t> jpeg_of_scans(int scans) {
  std::vector<jpeg_scan_info> script{{1, {0}, 0, 0, 0, 1}, {1, {0}, 0, 0, 1, 0}};
  for (int band = 1; static_cast<int>(script.size()) < scans; ++band) {
    // Each band twice: all bits but the lowest, and the lowest.
    script.push_back({1, {0}, band, band, 0, 1});
    script.push_back({1, {0}, band, band, 1, 0});
  }
  script.resize(static_cast<size_t>(scans));
  jpeg_compress_struct c{};
  jpeg_error_mgr errors{};
  c.err = jpeg_std_error(&errors);
  jpeg_create_compress(&c);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&c, &bytes, &size);
  c.image_width = c.image_height = 16;
  c.input_components = 1;
  c.in_color_space = JCS_GRAYSCALE;
  jpeg_set_defaults(&c);
  c.scan_info = script.data();
  c.num_scans = scans;
  jpeg_start_compress(&c, TRUE);
  std::vector<uint8_t> row{0, 200, 3, 77, 250, 9, 100, 31, 8, 255, 0, 16, 99, 98, 1, 180};
  for (int y = 0; y < 16; ++y) {
    JSAMPROW rows = row.data();
    jpeg_write_scanlines(&c, &rows, 1);
  }
  jpeg_finish_compress(&c);
  std::vector<uint8_t> file(bytes, bytes + size);
  jpeg_destroy_compress(&c);
  std::free(bytes);
  return file;
}

// Each scan passes over all pixels, and may have next to no bytes.
TEST(DecodeImage, AJpegOfVeryManyScansIsRefused) {
  EXPECT_NO_THROW(decode_image(jpeg_of_scans(100)));
  expect_refused(jpeg_of_scans(101), {"damaged JPEG", "more than 100 scans"});
}

TEST(ExifOrientation, IsReadInBothByteOrders) {
  const auto tiff = [](bool big, uint8_t value, uint8_t type = 3, uint8_t entries = 1) {
    std::vector<uint8_t> bytes = big ? std::vector<uint8_t>{'M',  'M', 0,    42, 0, 0, 0, 8, 0,     entries, 0x01,
                                                            0x12, 0,   type, 0,  0, 0, 1, 0, value, 0,       0}
                                     : std::vector<uint8_t>{'I',  'I',  42, 0, 8, 0, 0, 0,     entries, 0, 0x12,
                                                            0x01, type, 0,  1, 0, 0, 0, value, 0,       0, 0};
    return exif_orientation(bytes);
  };
  for (const bool big : {false, true}) {
    for (uint8_t value = 1; value <= 8; ++value) EXPECT_EQ(tiff(big, value), value);
    for (const uint8_t value : {0, 9, 255}) EXPECT_EQ(tiff(big, value), 1);
    EXPECT_EQ(tiff(big, 6, 4), 1) << "of another type";
    EXPECT_EQ(tiff(big, 6, 3, 0), 1) << "of no directory";
    EXPECT_EQ(tiff(big, 6, 3, 255), 6) << "a directory that claims more entries than it has";
  }
  EXPECT_EQ(exif_orientation({}), 1);
  EXPECT_EQ(exif_orientation(exif_user_comment("a cat")), 1);
  // A directory beyond the end.
  const std::vector<uint8_t> far{'M', 'M', 0, 42, 0xff, 0xff, 0xff, 0xff, 0, 1};
  EXPECT_EQ(exif_orientation(far), 1);
}

}  // namespace
}  // namespace nostos
