// Tests image formats, their text and hostile PNGs.
#include "io/image.h"

// jpeglib.h uses FILE and size_t without including them.
#include <cstddef>
#include <cstdio>

#include <gtest/gtest.h>
#include <jpeglib.h>
#include <omp.h>
#include <png.h>
#include <webp/decode.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "io/exif.h"
#include "io/test_files.h"
#include "io/utf8.h"

namespace nostos {
namespace {

const std::string kData = NOSTOS_SOURCE_DIR "/tests/data/io/";

/// A smooth picture that no two rows or channels of share.
Image gradient(int64_t height, int64_t width) {
  Image image{height, width, {}};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      image.rgb.push_back(static_cast<uint8_t>(x * 255 / std::max<int64_t>(1, width - 1)));
      image.rgb.push_back(static_cast<uint8_t>(y * 255 / std::max<int64_t>(1, height - 1)));
      image.rgb.push_back(static_cast<uint8_t>((x + y) % 256));
    }
  }
  return image;
}

double psnr(const Image& a, const Image& b) {
  EXPECT_EQ(a.rgb.size(), b.rgb.size());
  double sum = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) sum += std::pow(static_cast<double>(a.rgb[i]) - b.rgb[i], 2);
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.rgb.size()) / sum);
}

std::vector<uint8_t> bytes_of_file(const std::string& path) {
  const std::string text = slurp(path);
  return {text.begin(), text.end()};
}

/// The picture of tests/data/io/make_fixtures.py with each pixel computed by `pixel(grey, y)`.
template <class Pixel>
Image fixture(Pixel pixel) {
  Image image{4, 5, {}};
  for (int y = 0; y < 4; ++y) {
    for (int x = 0; x < 5; ++x) {
      for (const int value : pixel(x * 50 + y * 10, y)) image.rgb.push_back(static_cast<uint8_t>(value));
    }
  }
  return image;
}

/// Appends a PNG chunk with its checksum.
void put_chunk(std::vector<uint8_t>& out, std::string_view type, std::string_view data) {
  const auto put32 = [&](uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
  };
  put32(static_cast<uint32_t>(data.size()));
  const size_t start = out.size();
  out.insert(out.end(), type.begin(), type.end());
  out.insert(out.end(), data.begin(), data.end());
  uint32_t crc = 0xffffffff;
  for (size_t i = start; i < out.size(); ++i) {
    crc ^= out[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
  }
  put32(~crc);
}

TEST(ImageFormat, ByExtension) {
  EXPECT_EQ(image_format("a/b.png"), ImageFormat::png);
  EXPECT_EQ(image_format("b.PNG"), ImageFormat::png);
  EXPECT_EQ(image_format("b.jpg"), ImageFormat::jpeg);
  EXPECT_EQ(image_format("b.x.JPeg"), ImageFormat::jpeg);
  EXPECT_EQ(image_format("b.webp"), ImageFormat::webp);
  for (const char* name : {"b", "b.", ".png", "b.gif", "b.png.txt"}) {
    expect_error([&] { image_format(name); }, ErrorKind::invalid_input, {name, ".png, .jpg, .jpeg or .webp"});
  }
}

TEST(Png, RoundTripsEverySizeExactly) {
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 1}, {1, 300}, {300, 1}, {37, 53}, {128, 128}}) {
    const Image image = gradient(height, width);
    EXPECT_EQ(decode_image(encode_image(image, ImageFormat::png)), image) << height << "x" << width;
  }
}

/// Pixels that nothing predicts.
Image noise(int64_t height, int64_t width) {
  Image image{height, width, {}};
  std::mt19937 generator(1);
  for (int64_t i = 0; i < height * width * 3; ++i) image.rgb.push_back(static_cast<uint8_t>(generator() >> 24));
  return image;
}

// Pictures of many strips, one that a single row fills, and incompressible ones: these need the most room.
TEST(Png, RoundTripsManyStrips) {
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{517, 640}, {3, 16384}, {1024, 1024}}) {
    const Image flat{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3), 200)};
    for (const Image& image : {flat, gradient(height, width), noise(height, width)})
      EXPECT_EQ(decode_image(encode_image(image, ImageFormat::png)), image) << height << "x" << width;
  }
}

TEST(Png, BytesDoNotDependOnTheThreads) {
  const int threads = omp_get_num_procs();
  const Image image = gradient(700, 500);
  std::vector<std::vector<uint8_t>> files;
  for (const int count : {1, 2, 5}) {
    omp_set_num_threads(count);
    files.push_back(encode_image(image, ImageFormat::png));
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
}

TEST(Png, IncompressiblePixelsGrowByLessThanAPercent) {
  EXPECT_LE(encode_image(noise(512, 512), ImageFormat::png).size(), size_t{512 * 512 * 3} * 101 / 100);
}

TEST(Png, EqualInputGivesEqualBytes) {
  const std::vector<TextChunk> text = {{"parameters", "a cat"}};
  EXPECT_EQ(encode_image(gradient(64, 64), ImageFormat::png, text),
            encode_image(gradient(64, 64), ImageFormat::png, text));
}

TEST(Png, ReadsEveryColourType) {
  const auto read = [](const char* name) { return decode_image(bytes_of_file(kData + name)); };
  const Image rgb = fixture([](int grey, int y) { return std::array{grey, 255 - grey, y * 60}; });
  const Image grey = fixture([](int grey, int) { return std::array{grey, grey, grey}; });
  EXPECT_EQ(read("rgb.png"), rgb);
  EXPECT_EQ(read("rgba.png"), fixture([](int grey, int y) {
              const auto over_white = [&](int colour) { return (255 * (255 - grey) + colour * grey + 127) / 255; };
              return std::array{over_white(grey), over_white(255 - grey), over_white(y * 60)};
            }));
  EXPECT_EQ(read("palette.png"), rgb);
  EXPECT_EQ(read("grey.png"), grey);
  EXPECT_EQ(read("grey16.png"), grey);
  EXPECT_EQ(read("bilevel.png"), fixture([](int grey, int) {
              const int value = grey > 100 ? 255 : 0;
              return std::array{value, value, value};
            }));
}

TEST(PngText, ReadsWhatPillowWrote) {
  EXPECT_EQ(read_png_text(bytes_of_file(kData + "text.png")),
            (std::vector<TextChunk>{{"parameters", "plain caf\u00e9"},
                                    {"squeezed", std::string(3000, 'z')},
                                    {"nostos", "\u732b \U0001f3d6 {}"}}));
  EXPECT_TRUE(read_png_text(bytes_of_file(kData + "rgb.png")).empty());
}

TEST(PngText, RoundTripsInOrder) {
  const std::vector<TextChunk> text = {{"parameters", "a caf\u00e9\nSteps: 9, Seed: 42"},
                                       {"nostos", "{\"prompt\":\"\u732b \U0001f408\"}"},
                                       {"empty", ""},
                                       {"long", std::string(300'000, 'x')}};
  const std::vector<uint8_t> png = encode_image(gradient(9, 9), ImageFormat::png, text);
  EXPECT_EQ(read_png_text(png), text);
  EXPECT_EQ(decode_image(png), gradient(9, 9));
}

TEST(PngText, ChunkTypeFollowsTheText) {
  const auto encoded = [](const char* text) {
    const std::vector<uint8_t> png =
        encode_image(gradient(2, 2), ImageFormat::png, std::vector<TextChunk>{{"parameters", text}});
    return std::string(png.begin(), png.end());
  };
  const std::string latin1 = encoded("caf\u00e9 \u00ff");
  EXPECT_NE(latin1.find(std::string("tEXtparameters\0caf\xe9 \xff", 21)), std::string::npos);
  EXPECT_LT(latin1.find("tEXt"), latin1.find("IDAT")) << "readers look for text before the pixels";
  EXPECT_NE(encoded("\u0100").find(std::string("iTXtparameters\0\0\0\0\0\xc4\x80", 21)), std::string::npos);
}

TEST(PngText, WhatPngCannotHoldIsReplaced) {
  const auto round_trip = [](std::string text) {
    return read_png_text(encode_image(gradient(2, 2), ImageFormat::png, std::vector<TextChunk>{{"k", std::move(text)}}))
        .at(0)
        .text;
  };
  EXPECT_EQ(round_trip(std::string("a\0b", 3)), "a\ufffdb");
  EXPECT_EQ(round_trip("a\xff\xe7\x8c"), "a\ufffd\ufffd");
}

TEST(PngText, DamagedTextIsLeftOutAndLimitsHold) {
  const std::vector<uint8_t> plain = encode_image(gradient(2, 2), ImageFormat::png);
  constexpr size_t kAfterHeader = 33;
  const auto with_chunks = [&](const auto& put) {
    std::vector<uint8_t> png(plain.begin(), plain.begin() + kAfterHeader);
    put(png);
    png.insert(png.end(), plain.begin() + kAfterHeader, plain.end());
    return png;
  };
  std::vector<uint8_t> png = with_chunks([](auto& out) {
    put_chunk(out, "tEXt", std::string_view("bad\0text", 8));
    out.back() ^= 1;
    put_chunk(out, "tEXt", "no separator");
    put_chunk(out, "zTXt", std::string_view("zip\0\0no zlib stream", 19));
    put_chunk(out, "iTXt", std::string_view("cut\0\0", 5));
    put_chunk(out, "tEXt", std::string_view("good\0text", 9));
  });
  const std::vector<TextChunk> read = read_png_text(png);
  EXPECT_NE(std::find(read.begin(), read.end(), TextChunk{"good", "text"}), read.end());
  EXPECT_TRUE(std::none_of(read.begin(), read.end(),
                           [](const TextChunk& c) { return c.keyword == "bad" || c.keyword == "zip"; }));
  EXPECT_EQ(decode_image(png), gradient(2, 2));

  png = with_chunks([](auto& out) {
    put_chunk(out, "tEXt", std::string("huge\0", 5) + std::string(kMaxPngTextBytes + 1, 'x'));
    for (int i = 0; i < 10'000; ++i) put_chunk(out, "tEXt", std::string_view("many\0text", 9));
  });
  EXPECT_LE(read_png_text(png).size(), 101u);
  EXPECT_EQ(read_png_text(png).at(0).keyword, "many");
  EXPECT_EQ(read_png_text(bytes_of_file(kData + "bomb.png")), (std::vector<TextChunk>{{"parameters", "still here"}}))
      << "2 MiB of text in 2 kB of zTXt";
}

TEST(Png, DamagedFilesAreErrorsAtEveryLength) {
  const std::vector<uint8_t> png =
      encode_image(gradient(20, 20), ImageFormat::png, std::vector<TextChunk>{{"k", "text"}});
  for (size_t length = 0; length < png.size(); ++length) {
    const auto part = std::span(png).first(length);
    EXPECT_THROW(decode_image(part), Error) << length;
    EXPECT_THROW(read_png_text(part), Error) << length;
  }
  expect_error([] { decode_image(bytes_of_file(kData + "reference.safetensors")); }, ErrorKind::invalid_input,
               {"no PNG, JPEG or WebP"});
  expect_error([&] { decode_image(std::span(png).first(100)); }, ErrorKind::invalid_input,
               {"damaged PNG", "ends early"});
}

TEST(Png, AFlippedBitNeverPassesForAnotherPicture) {
  const Image image = gradient(8, 8);
  const std::vector<uint8_t> png = encode_image(image, ImageFormat::png);
  for (size_t bit = 0; bit < png.size() * 8; ++bit) {
    std::vector<uint8_t> damaged = png;
    damaged[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    try {
      EXPECT_EQ(decode_image(damaged), image) << "bit " << bit;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_input) << error.what();
    }
  }
}

TEST(Png, AChunkThatClaimsMoreThanTheFileHoldsTakesNoMemory) {
  // Found by the fuzzer: libpng allocated the 1.9 GB that this zTXt chunk claims.
  std::vector<uint8_t> png = encode_image(gradient(2, 2), ImageFormat::png);
  constexpr size_t kAfterHeader = 33;
  const std::string_view chunk("\x72\0\0\0zTXtkey\0\0", 13);
  png.insert(png.begin() + kAfterHeader, chunk.begin(), chunk.end());
  expect_error([&] { read_png_text(png); }, ErrorKind::invalid_input, {"damaged PNG", "ends early"});
  expect_error([&] { decode_image(png); }, ErrorKind::invalid_input, {"damaged PNG", "ends early"});
}

TEST(Png, HugeSizesAreRefusedBeforeTheyTakeMemory) {
  const auto of_size = [](std::string_view extents) {
    std::vector<uint8_t> png = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    put_chunk(png, "IHDR", std::string(extents) + std::string("\x08\x02\0\0\0", 5));
    put_chunk(png, "IDAT", "x");
    put_chunk(png, "IEND", "");
    return png;
  };
  for (const std::string_view extents :
       {std::string_view("\0\0\x40\x01\0\0\0\1", 8), std::string_view("\x7f\xff\xff\xff\x7f\xff\xff\xff", 8),
        std::string_view("\xff\xff\xff\xff\xff\xff\xff\xff", 8), std::string_view("\0\0\x40\0\0\0\x40\0", 8)}) {
    expect_error([&] { decode_image(of_size(extents)); }, ErrorKind::invalid_input, {"at most 16384 a side"});
    expect_error([&] { read_png_text(of_size(extents)); }, ErrorKind::invalid_input, {"at most 16384 a side"});
  }
  expect_error([&] { decode_image(of_size(std::string_view("\0\0\0\0\0\0\0\1", 8))); }, ErrorKind::invalid_input,
               {"PNG of 0x1 pixels"});
}

TEST(EncodeImage, SizesBeyondTheFormatAreRefused) {
  Image wide{1, 70'000, std::vector<uint8_t>(210'000)};
  expect_error([&] { encode_image(wide, ImageFormat::png); }, ErrorKind::invalid_input, {"70000x1", "PNG", "16384"});
  expect_error([&] { encode_image(wide, ImageFormat::jpeg); }, ErrorKind::invalid_input, {"JPEG", "65500"});
  expect_error([&] { encode_image(wide, ImageFormat::webp); }, ErrorKind::invalid_input, {"WebP", "16383"});
  expect_error(
      [] {
        encode_image(Image{2, 2, std::vector<uint8_t>(11)}, ImageFormat::png);
      },
      ErrorKind::internal, {"height * width * 3"});
  expect_error([] { encode_image(Image{}, ImageFormat::webp); }, ErrorKind::internal, {"height * width * 3"});
  for (const char* keyword : {"", "two words", "caf\u00e9"}) {
    expect_error(
        [&] {
          encode_image(gradient(2, 2), ImageFormat::png, std::vector<TextChunk>{{keyword, "t"}});
        },
        ErrorKind::internal, {"keyword"});
  }
}

Image jpeg_pixels(std::span<const uint8_t> bytes) {
  jpeg_decompress_struct d{};
  jpeg_error_mgr errors{};
  d.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&d);
  jpeg_mem_src(&d, bytes.data(), bytes.size());
  jpeg_read_header(&d, TRUE);
  jpeg_start_decompress(&d);
  Image image{d.output_height, d.output_width, std::vector<uint8_t>(size_t{d.output_height} * d.output_width * 3)};
  while (d.output_scanline < d.output_height) {
    JSAMPROW row = image.rgb.data() + size_t{d.output_scanline} * d.output_width * 3;
    jpeg_read_scanlines(&d, &row, 1);
  }
  jpeg_finish_decompress(&d);
  jpeg_destroy_decompress(&d);
  return image;
}

Image webp_pixels(std::span<const uint8_t> bytes) {
  int width = 0;
  int height = 0;
  uint8_t* rgb = WebPDecodeRGB(bytes.data(), bytes.size(), &width, &height);
  EXPECT_NE(rgb, nullptr);
  if (rgb == nullptr) return {};
  Image image{height, width, std::vector<uint8_t>(rgb, rgb + width * height * 3)};
  WebPFree(rgb);
  return image;
}

TEST(JpegAndWebp, LookLikeThePicture) {
  // Odd sizes; measured 43.9 dB (JPEG) and 41.5 dB (WebP, half colour resolution) at quality 95.
  const Image image = gradient(65, 99);
  EXPECT_GT(psnr(jpeg_pixels(encode_image(image, ImageFormat::jpeg)), image), 40);
  EXPECT_GT(psnr(webp_pixels(encode_image(image, ImageFormat::webp)), image), 35);
  EXPECT_LT(encode_image(image, ImageFormat::jpeg, {}, 50).size(),
            encode_image(image, ImageFormat::jpeg, {}, 95).size());
  EXPECT_LT(encode_image(image, ImageFormat::webp, {}, 50).size(),
            encode_image(image, ImageFormat::webp, {}, 95).size());
}

TEST(JpegAndWebp, KeepTheParametersAsUserComment) {
  const Image image = gradient(33, 31);
  // Surrogate pair for the parasol; odd and even lengths pad differently in WebP.
  const std::string comment("UNICODE\0\0a\x73\x2b\xd8\x3c\xdf\xd6", 16);
  const std::vector<TextChunk> text = {{"other", "left out"}, {"parameters", "a\u732b\U0001f3d6"}};
  for (const ImageFormat format : {ImageFormat::jpeg, ImageFormat::webp}) {
    const std::vector<uint8_t> bytes = encode_image(image, format, text);
    const std::vector<uint8_t> plain = encode_image(image, format);
    EXPECT_NE(std::search(bytes.begin(), bytes.end(), comment.begin(), comment.end(),
                          [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); }),
              bytes.end());
    const auto decode = format == ImageFormat::jpeg ? jpeg_pixels : webp_pixels;
    EXPECT_EQ(decode(bytes), decode(plain));
  }
  const std::vector<uint8_t> webp = encode_image(image, ImageFormat::webp, text);
  EXPECT_EQ(webp[4] + webp[5] * 256u + webp[6] * 65536u + 8u, webp.size()) << "the RIFF size covers the file";
}

TEST(JpegAndWebp, ATooLongCommentIsLeftOutOfAJpeg) {
  const Image image = gradient(8, 8);
  const std::vector<TextChunk> text = {{"parameters", std::string(40'000, 'x')}};
  EXPECT_EQ(encode_image(image, ImageFormat::jpeg, text), encode_image(image, ImageFormat::jpeg));
  EXPECT_GT(encode_image(image, ImageFormat::webp, text).size(), 80'000u);
}

TEST(Exif, IsOneCommentInAWellFormedTiff) {
  const std::vector<uint8_t> exif = exif_user_comment("A");
  const std::vector<uint8_t> expected = {'M', 'M', 0, 42, 0, 0, 0, 8, 0,   1,   0x87, 0x69, 0,   4,   0,   0, 0, 1,
                                         0,   0,   0, 26, 0, 0, 0, 0, 0,   1,   0x92, 0x86, 0,   7,   0,   0, 0, 10,
                                         0,   0,   0, 44, 0, 0, 0, 0, 'U', 'N', 'I',  'C',  'O', 'D', 'E', 0, 0, 'A'};
  EXPECT_EQ(exif, expected);
}

TEST(Utf8, EveryCodePointRoundTrips) {
  std::u32string all;
  for (char32_t point = 0; point <= 0x10ffff; ++point) {
    if (point < 0xd800 || point > 0xdfff) all += point;
  }
  EXPECT_EQ(decode_utf8(encode_utf8(all)), all);
}

TEST(Utf8, InvalidSequencesAreReplacedAsPythonDoes) {
  // bytes.decode(errors="replace") of each.
  EXPECT_EQ(decode_utf8("\x80"), U"\ufffd");
  EXPECT_EQ(decode_utf8("\xc0\xaf"), U"\ufffd\ufffd");
  EXPECT_EQ(decode_utf8("\xe0\x9f\x80"), U"\ufffd\ufffd\ufffd");
  EXPECT_EQ(decode_utf8("\xed\xa0\x80"), U"\ufffd\ufffd\ufffd");
  EXPECT_EQ(decode_utf8("\xf0\x9f\x8f"), U"\ufffd");
  EXPECT_EQ(decode_utf8("\xf0\x9f\x8fz"), U"\ufffdz");
  EXPECT_EQ(decode_utf8("\xf4\x90\x80\x80"), U"\ufffd\ufffd\ufffd\ufffd");
  EXPECT_EQ(decode_utf8("\xe7\x8c\xe7\x8c\xab"), U"\ufffd\u732b");
}

TEST(Utf8, ALineHasNoControlCharacters) {
  for (const char* line : {"", "a b", "\xe7\x8c\xab", ".", "../x", "~", " "}) EXPECT_TRUE(is_one_line(line)) << line;
  for (const char* text : {"a\nb", "\t", "\x7f", "\x1b[0m", "\xff", "\xed\xa0\x80", "a\xc3"})
    EXPECT_FALSE(is_one_line(text)) << text;
  EXPECT_FALSE(is_one_line(std::string_view("\0", 1)));
}

}  // namespace
}  // namespace nostos
