// Implements the reading of JPEGs on libjpeg-turbo. Functions with setjmp hold no object that a longjmp would leave
// undestroyed.
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>
// jerror.h needs what jpeglib.h declares.
#include <jerror.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <string_view>

#include "base/error.h"
#include "io/exif.h"
#include "io/image_readers.h"

namespace nostos {
namespace {

/// Scans of a progressive JPEG, of which encoders make some ten: each costs time for all pixels, and few bytes.
constexpr int kMaxScans = 100;
constexpr unsigned kMaxMarkerBytes = 0xffff;
constexpr std::string_view kExifName("Exif\0\0", 6);

/// \return whether libjpeg says with this warning that pixels are lost, which it then makes up.
bool loses_pixels(int code) {
  switch (code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
    case JWRN_BOGUS_PROGRESSION:
      return true;
    default:
      return false;
  }
}

/// A JPEG being read, with libjpeg's error manager turned into a longjmp.
struct JpegReader {
  JpegReader() {
    decompress.err = jpeg_std_error(&errors);
    errors.error_exit = [](j_common_ptr common) {
      auto* self = static_cast<JpegReader*>(common->client_data);
      common->err->format_message(common, self->message.data());
      std::longjmp(self->jump, 1);
    };
    errors.emit_message = [](j_common_ptr common, int level) {
      if (level < 0 && loses_pixels(common->err->msg_code)) common->err->error_exit(common);
    };
    errors.output_message = [](j_common_ptr) {};
    progress.progress_monitor = [](j_common_ptr common) {
      auto* self = static_cast<JpegReader*>(common->client_data);
      if (self->decompress.input_scan_number <= kMaxScans) return;
      std::snprintf(self->message.data(), self->message.size(), "it has more than %d scans", kMaxScans);
      std::longjmp(self->jump, 1);
    };
    decompress.client_data = this;
  }
  ~JpegReader() { jpeg_destroy_decompress(&decompress); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  jpeg_decompress_struct decompress{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf jump{};
  std::array<char, JMSG_LENGTH_MAX> message{};
};

bool read_header(JpegReader& reader, std::span<const uint8_t> bytes) {
  if (setjmp(reader.jump) != 0) return false;
  jpeg_create_decompress(&reader.decompress);
  reader.decompress.progress = &reader.progress;
  jpeg_mem_src(&reader.decompress, bytes.data(), bytes.size());
  jpeg_save_markers(&reader.decompress, JPEG_APP0 + 1, kMaxMarkerBytes);
  jpeg_read_header(&reader.decompress, TRUE);
  return true;
}

bool start(JpegReader& reader) {
  if (setjmp(reader.jump) != 0) return false;
  jpeg_decompress_struct& d = reader.decompress;
  const bool has_black = d.jpeg_color_space == JCS_CMYK || d.jpeg_color_space == JCS_YCCK;
  d.out_color_space = has_black ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&d);
  return true;
}

/// \param row gets each row in turn, and `keep` is called after it
bool read_rows(JpegReader& reader, uint8_t* row, void (*keep)(const uint8_t* row, size_t pixels, uint8_t* rgb),
               uint8_t* rgb) {
  if (setjmp(reader.jump) != 0) return false;
  jpeg_decompress_struct& d = reader.decompress;
  while (d.output_scanline < d.output_height) {
    const size_t done = size_t{d.output_scanline} * d.output_width * 3;
    JSAMPROW rows = row;
    if (jpeg_read_scanlines(&d, &rows, 1) == 1) keep(row, d.output_width, rgb + done);
  }
  return true;
}

void keep_rgb(const uint8_t* row, size_t pixels, uint8_t* rgb) { std::copy_n(row, pixels * 3, rgb); }

/// Adobe's programs store the complements, and Pillow takes every JPEG of four colours to be theirs. So the bytes are
/// what is left of the light: of white by black, and of that by each colour.
void keep_cmyk(const uint8_t* row, size_t pixels, uint8_t* rgb) {
  for (size_t i = 0; i < pixels; ++i) {
    const int left = row[4 * i + 3];
    for (size_t channel = 0; channel < 3; ++channel) {
      const int taken = 255 - row[4 * i + channel];
      rgb[3 * i + channel] = static_cast<uint8_t>(left - (taken * left + 127) / 255);
    }
  }
}

int orientation_of(const jpeg_decompress_struct& d) {
  for (const jpeg_marker_struct* marker = d.marker_list; marker != nullptr; marker = marker->next) {
    const std::string_view text(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (marker->marker == JPEG_APP0 + 1 && text.starts_with(kExifName))
      return exif_orientation({marker->data + kExifName.size(), marker->data_length - kExifName.size()});
  }
  return 1;
}

void require_read(bool done, const JpegReader& reader) {
  require(done, ErrorKind::invalid_input, "damaged JPEG: {}", reader.message.data());
}

/// Reads the header of a picture. \throws Error invalid_input if it is damaged, or the size beyond the limits
void open_within(JpegReader& reader, std::span<const uint8_t> bytes, const ImageLimits& limits) {
  require_read(read_header(reader, bytes), reader);
  require_within({reader.decompress.image_height, reader.decompress.image_width}, limits, "JPEG");
}

}  // namespace

StoredImage read_jpeg(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  JpegReader reader;
  const jpeg_decompress_struct& d = reader.decompress;
  open_within(reader, bytes, limits);
  require_read(start(reader), reader);
  check(d.output_height == d.image_height && d.output_width == d.image_width, "a JPEG is read in its own size");
  StoredImage stored{.image = {d.output_height, d.output_width, {}}, .orientation = orientation_of(d)};
  stored.image.rgb.resize(size_t{d.output_height} * d.output_width * 3);
  std::vector<uint8_t> row(size_t{d.output_width} * static_cast<size_t>(d.output_components));
  const auto keep = d.out_color_space == JCS_CMYK ? keep_cmyk : keep_rgb;
  require_read(read_rows(reader, row.data(), keep, stored.image.rgb.data()), reader);
  return stored;
}

ImageHeader read_jpeg_header(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  JpegReader reader;
  open_within(reader, bytes, limits);
  const jpeg_decompress_struct& d = reader.decompress;
  return {.size = {d.image_height, d.image_width}, .orientation = orientation_of(d)};
}

}  // namespace nostos
