// Owns images as users keep them: 8-bit RGB to and from PNG, JPEG and WebP, with text beside the pixels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace nostos {

/// 8-bit RGB pixels, row-major.
struct Image {
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> rgb;  ///< [height, width, 3]

  friend bool operator==(const Image&, const Image&) = default;
};

/// Sides of an image in pixels.
struct ImageSize {
  int64_t height = 0;
  int64_t width = 0;

  friend bool operator==(const ImageSize&, const ImageSize&) = default;
};

/// A named text kept in an image file.
struct TextChunk {
  std::string keyword;  ///< 1 to 79 printable ASCII characters
  std::string text;     ///< UTF-8

  friend bool operator==(const TextChunk&, const TextChunk&) = default;
};

enum class ImageFormat { png, jpeg, webp };

/// \return the format that the extension names: .png, .jpg, .jpeg or .webp in any case.
/// \throws Error invalid_input naming these for any other.
ImageFormat image_format(const std::filesystem::path& file);

/// Encodes an image; equal input gives equal bytes.
/// \param text in a PNG each text becomes a tEXt chunk if Latin-1 can write it, else an iTXt chunk. JPEG and WebP keep
/// the text with the keyword "parameters" alone, as Exif UserComment, where WebUI tools look for it. A JPEG leaves out
/// a text beyond 64 kB, with a warning. Invalid UTF-8 and NUL, which PNG cannot hold, become U+FFFD.
/// \param quality of JPEG and WebP, 1 to 100
/// \throws Error invalid_input if the size is more than the format can hold (PNG here 16,384, JPEG 65,500, WebP 16,383
/// a side), internal if the image or a keyword is malformed.
std::vector<uint8_t> encode_image(const Image& image, ImageFormat format, std::span<const TextChunk> text = {},
                                  int quality = 95);

/// Limits on picture files that are read, against hostile ones. They are looked at before any pixel is decoded.
struct ImageLimits {
  size_t bytes = size_t{64} << 20;    ///< of the file
  int64_t side = 16384;               ///< pixels
  int64_t pixels = int64_t{1} << 26;  ///< 201 MB of RGB
};
constexpr size_t kMaxPngTextBytes = size_t{1} << 20;  ///< of one text chunk, uncompressed; 100 chunks at most

/// Decodes a PNG, JPEG or WebP, which its content tells apart, to 8-bit RGB as Pillow converts it, with three
/// differences: 16 bits are rounded to 8, transparency is laid over white, and the picture is turned upright as its
/// Exif orientation says. Palettes, grey, interlaced and progressive files are read, JPEGs of four colours as Adobe
/// stores them, and of an animation its first frame, on white. Colour profiles are not applied.
/// \throws Error invalid_input if the bytes are no such file, damaged, cut short, or beyond the limits.
Image decode_image(std::span<const uint8_t> bytes, const ImageLimits& limits = {});

/// \return the size that decode_image() would give the picture, as its header has it: no pixel is decoded, and most of
/// what may be damaged is not looked at. The Exif orientation of a PNG counts where it stands before the pixels.
/// \throws Error invalid_input if the bytes do not begin as such a file, or are beyond the limits.
ImageSize read_image_size(std::span<const uint8_t> bytes, const ImageLimits& limits = {});

/// \return the text chunks (tEXt, zTXt, iTXt) of a PNG in order, as UTF-8, without damaged or oversized ones.
/// \throws Error invalid_input if the bytes are no PNG or damaged elsewhere than in a text chunk.
std::vector<TextChunk> read_png_text(std::span<const uint8_t> bytes);

}  // namespace nostos
