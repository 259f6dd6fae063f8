// Owns the readers of picture files behind decode_image(), one a format. Call decode_image().
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "io/image.h"

namespace nostos {

/// What a picture's header says of it.
struct ImageHeader {
  ImageSize size{};     ///< as its file stores it
  int orientation = 1;  ///< Exif's, 1 to 8: how the rows are to be turned for the picture to be upright
};

/// A picture as its file stores it.
struct StoredImage {
  Image image{};        ///< as the reader's Flatten makes its colours
  int orientation = 1;  ///< Exif's, 1 to 8: how the rows are to be turned for the picture to be upright
};

/// \throws Error invalid_input if a picture of that size is beyond the limits. \param format for the message
void require_within(ImageSize size, const ImageLimits& limits, const char* format);

/// Lays pixels over white, each colour rounded: (255 (255 - alpha) + colour alpha) / 255.
/// \param rgba [pixels, 4], whose memory becomes the result's \return [pixels, 3]
std::vector<uint8_t> over_white(std::vector<uint8_t> rgba);

/// Makes colours, [pixels, 3], of pixels that may be transparent, [pixels, 4], such as over_white(). What a WebP's
/// frame leaves free is white in any case.
using Flatten = std::function<std::vector<uint8_t>(std::vector<uint8_t> rgba)>;

/// Each reads one format, and refuses what decode_image() refuses. A JPEG has no transparency.
StoredImage read_png(std::span<const uint8_t> bytes, const ImageLimits& limits, const Flatten& flatten);
StoredImage read_jpeg(std::span<const uint8_t> bytes, const ImageLimits& limits);
StoredImage read_webp(std::span<const uint8_t> bytes, const ImageLimits& limits, const Flatten& flatten);
/// Each reads no further than a format's header.
ImageHeader read_png_header(std::span<const uint8_t> bytes, const ImageLimits& limits);
ImageHeader read_jpeg_header(std::span<const uint8_t> bytes, const ImageLimits& limits);
ImageHeader read_webp_header(std::span<const uint8_t> bytes, const ImageLimits& limits);

}  // namespace nostos
