// Implements PNG on libpng. Functions with setjmp hold no object that a longjmp would leave undestroyed.
#include "io/png.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string_view>

#include "base/error.h"
#include "io/exif.h"
#include "io/image_readers.h"
#include "io/png_pixels.h"
#include "io/utf8.h"

namespace nostos {
namespace {

constexpr int kMaxTextChunks = 100;

/// What libpng complained about.
struct Fault {
  std::array<char, 200> message{};
};

void on_error(png_structp png, png_const_charp message) {
  auto* fault = static_cast<Fault*>(png_get_error_ptr(png));
  std::snprintf(fault->message.data(), fault->message.size(), "%s", message);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

std::vector<png_bytep> row_pointers(uint8_t* pixels, int64_t height, size_t row_bytes) {
  std::vector<png_bytep> rows(static_cast<size_t>(height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = pixels + y * row_bytes;
  return rows;
}

// --- writing ---

struct Writer {
  Writer() {
    png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &fault, on_error, on_warning);
    if (png != nullptr) info = png_create_info_struct(png);
  }
  ~Writer() { png_destroy_write_struct(&png, &info); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  Fault fault;
  png_structp png = nullptr;
  png_infop info = nullptr;
};

void append_bytes(png_structp png, png_bytep bytes, size_t count) {
  auto* out = static_cast<std::vector<uint8_t>*>(png_get_io_ptr(png));
  bool stored = true;
  try {
    out->insert(out->end(), bytes, bytes + count);
  } catch (const std::exception&) {
    stored = false;
  }
  if (!stored) png_error(png, "out of memory");
}

bool write_image(Writer& writer, png_uint_32 width, png_uint_32 height, const std::vector<std::vector<uint8_t>>& pixels,
                 png_textp texts, int text_count) {
  if (setjmp(png_jmpbuf(writer.png)) != 0) return false;
  png_set_IHDR(writer.png, writer.info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_text(writer.png, writer.info, texts, text_count);
  png_write_info(writer.png, writer.info);
  for (const std::vector<uint8_t>& strip : pixels)
    png_write_chunk(writer.png, reinterpret_cast<png_const_bytep>("IDAT"), strip.data(), strip.size());
  png_write_chunk(writer.png, reinterpret_cast<png_const_bytep>("IEND"), nullptr, 0);
  return true;
}

/// A text chunk as libpng takes it.
struct EncodedText {
  std::string keyword;
  std::string text;  ///< Latin-1 or UTF-8, without NUL
  bool is_latin1;
};

EncodedText encode_text(const TextChunk& chunk) {
  const bool is_keyword =
      !chunk.keyword.empty() && chunk.keyword.size() <= 79 &&
      std::all_of(chunk.keyword.begin(), chunk.keyword.end(), [](char c) { return c > ' ' && c <= '~'; });
  check(is_keyword, "a PNG keyword has 1 to 79 printable ASCII characters");
  std::u32string points = decode_utf8(chunk.text);
  std::replace(points.begin(), points.end(), char32_t{0}, char32_t{0xfffd});
  EncodedText encoded{chunk.keyword, {}, true};
  encoded.is_latin1 = std::all_of(points.begin(), points.end(), [](char32_t point) { return point <= 0xff; });
  if (encoded.is_latin1) {
    for (const char32_t point : points) encoded.text += static_cast<char>(point);
  } else {
    encoded.text = encode_utf8(points);
  }
  return encoded;
}

// --- reading ---

struct Reader {
  explicit Reader(std::span<const uint8_t> bytes) : left(bytes) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &fault, on_error, on_warning);
    if (png != nullptr) info = png_create_info_struct(png);
  }
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  Fault fault;
  std::span<const uint8_t> left;
  png_structp png = nullptr;
  png_infop info = nullptr;
};

void take_bytes(png_structp png, png_bytep bytes, size_t count) {
  auto* reader = static_cast<Reader*>(png_get_io_ptr(png));
  if (count > reader->left.size()) png_error(png, "the data ends early");
  std::memcpy(bytes, reader->left.data(), count);
  reader->left = reader->left.subspan(count);
}

bool read_header(Reader& reader, const ImageLimits& limits) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  png_set_read_fn(reader.png, &reader, take_bytes);
  png_set_benign_errors(reader.png, 1);
  const auto most = static_cast<png_uint_32>(limits.side);
  png_set_user_limits(reader.png, most, most);
  png_set_chunk_malloc_max(reader.png, kMaxPngTextBytes);
  png_set_chunk_cache_max(reader.png, kMaxTextChunks);
  png_read_info(reader.png, reader.info);
  return true;
}

/// What is transparent keeps its alpha, as a fourth channel.
bool start_rgb(Reader& reader) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  png_set_expand(reader.png);
  png_set_scale_16(reader.png);
  png_set_gray_to_rgb(reader.png);
  png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  return true;
}

bool read_rows(Reader& reader, png_bytepp rows) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  png_read_image(reader.png, rows);
  png_read_end(reader.png, reader.info);
  return true;
}

bool skip_to_end(Reader& reader) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  png_start_read_image(reader.png);  // else png_read_end takes pixels for chunks
  png_read_end(reader.png, reader.info);
  return true;
}

/// \throws Error invalid_input unless `done`, with what libpng said.
void require_read(bool done, const Reader& reader) {
  require(done, ErrorKind::invalid_input, "damaged PNG: {}", reader.fault.message.data());
}

void require_memory(png_infop info) { require(info != nullptr, ErrorKind::out_of_memory, "no memory for libpng"); }

/// \throws Error invalid_input unless the bytes begin as a PNG of a size within the limits and every chunk lies within
/// them: libpng takes memory for as much as a chunk claims to hold.
void check_structure(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  constexpr size_t kSignatureBytes = 8;
  constexpr size_t kWidthAt = 16;
  constexpr size_t kHeightAt = 20;
  constexpr size_t kFrameBytes = 12;  // of a chunk: length, type, checksum
  require(bytes.size() >= kSignatureBytes && png_sig_cmp(bytes.data(), 0, kSignatureBytes) == 0,
          ErrorKind::invalid_input, "not a PNG: its first bytes are not those of one");
  for (std::span<const uint8_t> left = bytes.subspan(kSignatureBytes);;) {
    const size_t length = left.size() < kFrameBytes ? 0 : png_get_uint_32(left.data());
    require(left.size() >= kFrameBytes && length <= left.size() - kFrameBytes, ErrorKind::invalid_input,
            "damaged PNG: the data ends early");
    if (std::memcmp(left.data() + 4, "IEND", 4) == 0) break;
    left = left.subspan(kFrameBytes + length);
  }
  if (bytes.size() < kHeightAt + 4) return;  // libpng says what is missing
  const auto extent = [&](size_t at) { return int64_t{png_get_uint_32(bytes.data() + at)}; };
  const ImageSize size{extent(kHeightAt), extent(kWidthAt)};
  require_within(size, limits, "PNG");
}

int orientation_of(const Reader& reader) {
  png_bytep exif = nullptr;
  png_uint_32 bytes = 0;
  return png_get_eXIf_1(reader.png, reader.info, &bytes, &exif) != 0 ? exif_orientation({exif, bytes}) : 1;
}

std::string decode_latin1(std::string_view text) {
  std::u32string points;
  for (const char c : text) points += char32_t{static_cast<uint8_t>(c)};
  return encode_utf8(points);
}

}  // namespace

std::vector<uint8_t> encode_png(const Image& image, std::span<const TextChunk> text) {
  std::vector<EncodedText> encoded;
  for (const TextChunk& chunk : text) encoded.push_back(encode_text(chunk));
  std::vector<png_text> texts(encoded.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    texts[i].compression = encoded[i].is_latin1 ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    texts[i].key = encoded[i].keyword.data();
    texts[i].text = encoded[i].text.data();
    (encoded[i].is_latin1 ? texts[i].text_length : texts[i].itxt_length) = encoded[i].text.size();
  }
  const std::vector<std::vector<uint8_t>> pixels = compress_png_pixels(image);

  std::vector<uint8_t> bytes;
  Writer writer;
  require_memory(writer.info);
  png_set_write_fn(writer.png, &bytes, append_bytes, nullptr);
  const bool done = write_image(writer, static_cast<png_uint_32>(image.width), static_cast<png_uint_32>(image.height),
                                pixels, texts.data(), static_cast<int>(texts.size()));
  require(done, ErrorKind::internal, "cannot encode PNG: {}", writer.fault.message.data());
  return bytes;
}

StoredImage read_png(std::span<const uint8_t> bytes, const ImageLimits& limits, const Flatten& flatten) {
  check_structure(bytes, limits);
  Reader reader(bytes);
  require_memory(reader.info);
  require_read(read_header(reader, limits) && start_rgb(reader), reader);
  StoredImage stored;
  Image& image = stored.image;
  image.height = png_get_image_height(reader.png, reader.info);
  image.width = png_get_image_width(reader.png, reader.info);
  const int channels = png_get_channels(reader.png, reader.info);
  const size_t row_bytes = static_cast<size_t>(image.width * channels);
  check((channels == 3 || channels == 4) && png_get_rowbytes(reader.png, reader.info) == row_bytes,
        "libpng converts to 8-bit RGB, with or without alpha");
  image.rgb.resize(static_cast<size_t>(image.height) * row_bytes);
  std::vector<png_bytep> rows = row_pointers(image.rgb.data(), image.height, row_bytes);
  require_read(read_rows(reader, rows.data()), reader);
  if (channels == 4) image.rgb = flatten(std::move(image.rgb));
  stored.orientation = orientation_of(reader);
  return stored;
}

ImageHeader read_png_header(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  check_structure(bytes, limits);
  Reader reader(bytes);
  require_memory(reader.info);
  require_read(read_header(reader, limits), reader);
  return {.size = {png_get_image_height(reader.png, reader.info), png_get_image_width(reader.png, reader.info)},
          .orientation = orientation_of(reader)};
}

std::vector<TextChunk> read_png_text(std::span<const uint8_t> bytes) {
  const ImageLimits limits;
  check_structure(bytes, limits);
  Reader reader(bytes);
  require_memory(reader.info);
  require_read(read_header(reader, limits) && skip_to_end(reader), reader);
  png_textp texts = nullptr;
  int count = 0;
  png_get_text(reader.png, reader.info, &texts, &count);
  std::vector<TextChunk> chunks;
  for (const png_text& text : std::span(texts, static_cast<size_t>(count))) {
    const bool is_utf8 = text.compression >= PNG_ITXT_COMPRESSION_NONE;
    const std::string_view raw(text.text, is_utf8 ? text.itxt_length : text.text_length);
    if (raw.size() > kMaxPngTextBytes) continue;  // libpng limits only what it decompresses
    chunks.push_back({decode_latin1(text.key), is_utf8 ? encode_utf8(decode_utf8(raw)) : decode_latin1(raw)});
  }
  return chunks;
}

}  // namespace nostos
