// Implements the reading of pictures of any format: the choice by content, and what is done to pixels of all.
#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"
#include "io/grey_image.h"
#include "io/image.h"
#include "io/image_readers.h"

namespace nostos {
namespace {

/// Where a pixel of the upright picture is in the stored one.
struct Turn {
  bool swaps_sides = false;
  bool from_bottom = false, from_right = false;  ///< in the stored picture
};

/// Of Exif's orientations 1 to 8. Source: Exif 2.32 (CIPA DC-008), tag 0x0112
constexpr std::array<Turn, 8> kTurns{Turn{},
                                     Turn{.from_right = true},
                                     Turn{.from_bottom = true, .from_right = true},
                                     Turn{.from_bottom = true},
                                     Turn{.swaps_sides = true},
                                     Turn{.swaps_sides = true, .from_bottom = true},
                                     Turn{.swaps_sides = true, .from_bottom = true, .from_right = true},
                                     Turn{.swaps_sides = true, .from_right = true}};

Image upright(StoredImage stored) {
  if (stored.orientation == 1) return std::move(stored.image);
  const Turn turn = kTurns.at(static_cast<size_t>(stored.orientation - 1));
  const Image& from = stored.image;
  const int64_t height = turn.swaps_sides ? from.width : from.height;
  const int64_t width = turn.swaps_sides ? from.height : from.width;
  Image made{height, width, std::vector<uint8_t>(from.rgb.size())};
  uint8_t* out = made.rgb.data();
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const int64_t row = turn.swaps_sides ? x : y;
      const int64_t column = turn.swaps_sides ? y : x;
      const int64_t at = (turn.from_bottom ? from.height - 1 - row : row) * from.width +
                         (turn.from_right ? from.width - 1 - column : column);
      out = std::copy_n(from.rgb.data() + at * 3, 3, out);
    }
  }
  return made;
}

/// \return what the first bytes are those of. \throws Error invalid_input for another format, or too large a file
ImageFormat format_of(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  require(!bytes.empty(), ErrorKind::invalid_input, "an empty file is no picture");
  require(bytes.size() <= limits.bytes, ErrorKind::invalid_input,
          "the picture's file has {} bytes: at most {} are read", bytes.size(), limits.bytes);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("\x89PNG")) return ImageFormat::png;
  if (text.starts_with("\xff\xd8")) return ImageFormat::jpeg;
  if (text.starts_with("RIFF") && text.substr(0, 12).ends_with("WEBP")) return ImageFormat::webp;
  fail(ErrorKind::invalid_input, "the file is no PNG, JPEG or WebP: its first bytes are those of none");
}

Image decode(std::span<const uint8_t> bytes, const ImageLimits& limits, const Flatten& flatten) {
  switch (format_of(bytes, limits)) {
    case ImageFormat::png:
      return upright(read_png(bytes, limits, flatten));
    case ImageFormat::jpeg:
      return upright(read_jpeg(bytes, limits));
    case ImageFormat::webp:
      break;
  }
  return upright(read_webp(bytes, limits, flatten));
}

/// \return for each pixel the grey that its transparency stands for in a mask, three times over. \param rgba as
/// over_white() has it
std::vector<uint8_t> white_where_transparent(std::vector<uint8_t> rgba) {
  const size_t pixels = rgba.size() / 4;
  for (size_t i = 0; i < pixels; ++i)
    std::fill_n(rgba.begin() + static_cast<std::ptrdiff_t>(3 * i), 3, rgba[4 * i + 3] < 128 ? 255 : 0);
  rgba.resize(pixels * 3);
  return rgba;
}

bool is_opaque(const std::vector<uint8_t>& rgba) {
  for (size_t i = 3; i < rgba.size(); i += 4)
    if (rgba[i] != 255) return false;
  return true;
}

}  // namespace

void require_within(ImageSize size, const ImageLimits& limits, const char* format) {
  const auto [height, width] = size;
  require(height >= 1 && width >= 1, ErrorKind::invalid_input, "{} of {}x{} pixels: there is nothing to read", format,
          width, height);
  require(width <= limits.side && height <= limits.side && width <= limits.pixels / height, ErrorKind::invalid_input,
          "{} of {}x{} pixels: at most {} a side and {} in all are read", format, width, height, limits.side,
          limits.pixels);
}

std::vector<uint8_t> over_white(std::vector<uint8_t> rgba) {
  const size_t pixels = rgba.size() / 4;
  const auto blend = [](uint32_t colour, uint32_t alpha) {
    return static_cast<uint8_t>((255 * (255 - alpha) + colour * alpha + 127) / 255);
  };
  for (size_t i = 0; i < pixels; ++i) {
    const std::array<uint8_t, 4> pixel{rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2], rgba[4 * i + 3]};
    for (size_t channel = 0; channel < 3; ++channel) rgba[3 * i + channel] = blend(pixel[channel], pixel[3]);
  }
  rgba.resize(pixels * 3);
  return rgba;
}

Image decode_image(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  return decode(bytes, limits, over_white);
}

DecodedMask decode_mask(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  DecodedMask mask;
  const Image image = decode(bytes, limits, [&mask](std::vector<uint8_t> rgba) {
    mask.is_by_transparency = !is_opaque(rgba);
    return mask.is_by_transparency ? white_where_transparent(std::move(rgba)) : over_white(std::move(rgba));
  });
  mask.grey = grey_of(image);
  return mask;
}

ImageSize read_image_size(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  const ImageFormat format = format_of(bytes, limits);
  const auto read = format == ImageFormat::png    ? read_png_header
                    : format == ImageFormat::jpeg ? read_jpeg_header
                                                  : read_webp_header;
  const ImageHeader header = read(bytes, limits);
  const bool swaps_sides = kTurns.at(static_cast<size_t>(header.orientation - 1)).swaps_sides;
  return swaps_sides ? ImageSize{header.size.width, header.size.height} : header.size;
}

}  // namespace nostos
