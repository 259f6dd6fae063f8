// Implements image formats: the choice by name, JPEG and WebP.
#include "io/image.h"

// jpeglib.h uses FILE and size_t without including them.
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>
#include <webp/encode.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <csetjmp>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "io/exif.h"
#include "io/png.h"

namespace nostos {
namespace {

/// A JPEG being written, with libjpeg's error manager turned into a longjmp.
struct JpegWriter {
  JpegWriter() {
    compress.err = jpeg_std_error(&errors);
    errors.error_exit = [](j_common_ptr common) {
      auto* self = static_cast<JpegWriter*>(common->client_data);
      common->err->format_message(common, self->message.data());
      std::longjmp(self->jump, 1);
    };
    errors.output_message = [](j_common_ptr) {};
    compress.client_data = this;
  }
  ~JpegWriter() {
    jpeg_destroy_compress(&compress);
    std::free(bytes);
  }
  JpegWriter(const JpegWriter&) = delete;
  JpegWriter& operator=(const JpegWriter&) = delete;

  jpeg_compress_struct compress{};
  jpeg_error_mgr errors{};
  std::jmp_buf jump{};
  std::array<char, JMSG_LENGTH_MAX> message{};
  unsigned char* bytes = nullptr;
  unsigned long byte_count = 0;
};

/// Holds no object that a longjmp would leave undestroyed. \param app1 the Exif segment, may be empty
bool write_jpeg(JpegWriter& writer, const Image& image, int quality, std::span<const uint8_t> app1) {
  if (setjmp(writer.jump) != 0) return false;
  jpeg_compress_struct& compress = writer.compress;
  jpeg_create_compress(&compress);
  jpeg_mem_dest(&compress, &writer.bytes, &writer.byte_count);
  compress.image_width = static_cast<JDIMENSION>(image.width);
  compress.image_height = static_cast<JDIMENSION>(image.height);
  compress.input_components = 3;
  compress.in_color_space = JCS_RGB;
  jpeg_set_defaults(&compress);
  jpeg_set_quality(&compress, quality, TRUE);
  // Full colour resolution: drawn pictures have sharp saturated edges.
  compress.comp_info[0].h_samp_factor = 1;
  compress.comp_info[0].v_samp_factor = 1;
  jpeg_start_compress(&compress, TRUE);
  if (!app1.empty()) jpeg_write_marker(&compress, JPEG_APP0 + 1, app1.data(), static_cast<unsigned>(app1.size()));
  while (compress.next_scanline < compress.image_height) {
    JSAMPROW row = const_cast<JSAMPROW>(image.rgb.data()) + size_t{compress.next_scanline} * compress.image_width * 3;
    jpeg_write_scanlines(&compress, &row, 1);
  }
  jpeg_finish_compress(&compress);
  return true;
}

std::vector<uint8_t> encode_jpeg(const Image& image, std::string_view comment, int quality) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  constexpr size_t kMaxSegmentBytes = 65533;
  std::vector<uint8_t> app1;
  if (!comment.empty()) {
    const std::vector<uint8_t> exif = exif_user_comment(comment);
    app1.assign(kExif.begin(), kExif.end());
    app1.insert(app1.end(), exif.begin(), exif.end());
  }
  if (app1.size() > kMaxSegmentBytes) {
    log_warning("the generation parameters are too long for a JPEG and left out of it");
    app1.clear();
  }
  JpegWriter writer;
  require(write_jpeg(writer, image, quality, app1), ErrorKind::internal, "cannot encode JPEG: {}",
          writer.message.data());
  return {writer.bytes, writer.bytes + writer.byte_count};
}

void put_little_endian(std::vector<uint8_t>& out, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

void put_chunk_start(std::vector<uint8_t>& out, std::string_view four_letters, size_t bytes) {
  out.insert(out.end(), four_letters.begin(), four_letters.end());
  put_little_endian(out, static_cast<uint32_t>(bytes), 4);
}

/// \return the simple WebP file in the extended layout, with Exif. Source: RFC 9649, section 2.7
std::vector<uint8_t> add_exif(std::span<const uint8_t> simple, const Image& image, std::span<const uint8_t> exif) {
  constexpr size_t kRiffHeaderBytes = 12;
  constexpr size_t kChunkHeaderBytes = 8;
  constexpr uint32_t kExifFlag = 0x08;
  constexpr size_t kVp8xBytes = 10;
  const std::span<const uint8_t> chunks = simple.subspan(kRiffHeaderBytes);
  const size_t padding = exif.size() % 2;
  std::vector<uint8_t> out;
  put_chunk_start(out, "RIFF",
                  4 + kChunkHeaderBytes + kVp8xBytes + chunks.size() + kChunkHeaderBytes + exif.size() + padding);
  constexpr std::string_view kWebp = "WEBP";
  out.insert(out.end(), kWebp.begin(), kWebp.end());
  put_chunk_start(out, "VP8X", kVp8xBytes);
  put_little_endian(out, kExifFlag, 4);
  put_little_endian(out, static_cast<uint32_t>(image.width - 1), 3);
  put_little_endian(out, static_cast<uint32_t>(image.height - 1), 3);
  out.insert(out.end(), chunks.begin(), chunks.end());
  put_chunk_start(out, "EXIF", exif.size());
  out.insert(out.end(), exif.begin(), exif.end());
  out.resize(out.size() + padding);
  return out;
}

std::vector<uint8_t> encode_webp(const Image& image, std::string_view comment, int quality) {
  uint8_t* bytes = nullptr;
  const size_t byte_count =
      WebPEncodeRGB(image.rgb.data(), static_cast<int>(image.width), static_cast<int>(image.height),
                    static_cast<int>(image.width * 3), static_cast<float>(quality), &bytes);
  const std::unique_ptr<uint8_t, decltype(&WebPFree)> owner(bytes, &WebPFree);
  require(byte_count != 0, ErrorKind::internal, "cannot encode WebP of {}x{} pixels", image.width, image.height);
  const std::span<const uint8_t> simple(bytes, byte_count);
  if (comment.empty()) return {simple.begin(), simple.end()};
  return add_exif(simple, image, exif_user_comment(comment));
}

void check_size(const Image& image, const char* format, int64_t max_side) {
  check(image.height > 0 && image.width > 0 && image.rgb.size() == static_cast<size_t>(image.height * image.width) * 3,
        "an image has height * width * 3 bytes");
  require(image.height <= max_side && image.width <= max_side, ErrorKind::invalid_input,
          "cannot write {}x{} pixels as {}: at most {} a side", image.width, image.height, format, max_side);
}

}  // namespace

ImageFormat image_format(const std::filesystem::path& file) {
  std::string extension = file.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (extension == ".png") return ImageFormat::png;
  if (extension == ".jpg" || extension == ".jpeg") return ImageFormat::jpeg;
  if (extension == ".webp") return ImageFormat::webp;
  fail(ErrorKind::invalid_input,
       "cannot tell the image format of '{}': its extension must be .png, .jpg, .jpeg or .webp", file.string());
}

std::vector<uint8_t> encode_image(const Image& image, ImageFormat format, std::span<const TextChunk> text,
                                  int quality) {
  check(quality >= 1 && quality <= 100, "quality is 1 to 100");
  const auto parameters =
      std::find_if(text.begin(), text.end(), [](const TextChunk& chunk) { return chunk.keyword == "parameters"; });
  const std::string_view comment = parameters == text.end() ? std::string_view() : parameters->text;
  switch (format) {
    case ImageFormat::png:
      check_size(image, "PNG", ImageLimits{}.side);
      return encode_png(image, text);
    case ImageFormat::jpeg:
      check_size(image, "JPEG", JPEG_MAX_DIMENSION);
      return encode_jpeg(image, comment, quality);
    case ImageFormat::webp:
      break;
  }
  check_size(image, "WebP", WEBP_MAX_DIMENSION);
  return encode_webp(image, comment, quality);
}

}  // namespace nostos
