// Implements the filters of PNG (W3C PNG, section 9) and the compression of strips side by side.
#include "io/png_pixels.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/error.h"

namespace nostos {
namespace {

constexpr size_t kPixelBytes = 3;
constexpr size_t kStripBytes = size_t{128} << 10;  ///< that a strip has at most, but for a longer row

constexpr size_t kSerialStrips = 3;  ///< as few are not worth other threads

/// The filters, by their numbers in the format.
enum Filter : uint8_t { kNone, kSub, kUp, kAverage, kPaeth, kFilters };

uint8_t paeth(int left, int up, int up_left) {
  const int by_left = std::abs(up - up_left), by_up = std::abs(left - up_left),
            by_both = std::abs(left + up - 2 * up_left);
  const int closer = by_up <= by_both ? up : up_left;
  return static_cast<uint8_t>(by_left <= by_up && by_left <= by_both ? left : closer);
}

/// \return what `filter` predicts of a byte.
template <Filter filter>
uint8_t predicted(uint8_t left, uint8_t up, uint8_t up_left) {
  if constexpr (filter == kSub) return left;
  if constexpr (filter == kUp) return up;
  if constexpr (filter == kAverage) return static_cast<uint8_t>((left + up) / 2);
  if constexpr (filter == kPaeth) return paeth(left, up, up_left);
  return 0;
}

/// Writes a row less its prediction. \param row, above with a pixel of zeros before them.
/// \return the sum of the differences' absolute values, each byte taken for signed.
template <Filter filter>
uint64_t filter_row(const uint8_t* row, const uint8_t* above, size_t bytes, uint8_t* out) {
  for (size_t i = 0; i < bytes; ++i)
    out[i] = static_cast<uint8_t>(row[i] - predicted<filter>(row[i - kPixelBytes], above[i], above[i - kPixelBytes]));
  uint64_t sum = 0;
  constexpr size_t kPart = 256;  // whose sum fits 16 bits
  for (size_t first = 0; first < bytes; first += kPart) {
    uint16_t part = 0;
    for (size_t i = first; i < std::min(bytes, first + kPart); ++i)
      part = static_cast<uint16_t>(part + std::min<uint8_t>(out[i], static_cast<uint8_t>(-out[i])));
    sum += part;
  }
  return sum;
}

constexpr std::array<decltype(&filter_row<kNone>), kFilters> kFilterRow = {
    filter_row<kNone>, filter_row<kSub>, filter_row<kUp>, filter_row<kAverage>, filter_row<kPaeth>};

/// Some rows of the image on their way to the file.
struct Strip {
  size_t first_row = 0, end_row = 0;
  std::vector<uint8_t> row, above;  ///< with a pixel of zeros before them
  std::vector<uint8_t> tried;       ///< a row by one filter
  std::vector<uint8_t> filtered;    ///< each row: the number of its filter, then what that leaves
  std::vector<uint8_t> compressed;
  size_t compressed_bytes = 0;
  uLong checksum = 0;  ///< of `filtered`
  int status = Z_OK;   ///< of zlib
};

/// Filters the strip's rows, each by the filter that leaves the smallest differences.
void filter(const Image& image, Strip& s) {
  const size_t row_bytes = s.tried.size();
  uint8_t* out = s.filtered.data();
  for (size_t y = s.first_row; y < s.end_row; ++y, out += row_bytes + 1) {
    const uint8_t* const from = image.rgb.data() + y * row_bytes;
    std::copy_n(from, row_bytes, s.row.data() + kPixelBytes);
    if (y > 0) std::copy_n(from - row_bytes, row_bytes, s.above.data() + kPixelBytes);
    uint64_t least = UINT64_MAX;
    for (uint8_t number = 0; number < kFilters; ++number) {
      const uint64_t sum =
          kFilterRow[number](s.row.data() + kPixelBytes, s.above.data() + kPixelBytes, row_bytes, s.tried.data());
      if (sum >= least) continue;
      least = sum;
      out[0] = number;
      std::copy(s.tried.begin(), s.tried.end(), out + 1);
    }
  }
}

/// \return what any settings of zlib make of `bytes` at most, by its own reckoning (deflateBound), and a flush.
size_t most_compressed(size_t bytes) { return bytes + bytes / 8 + bytes / 128 + 64; }

/// Compresses the filtered rows behind what `compressed` holds; the next strip goes on from there unless this is the
/// last.
void compress(Strip& s, bool is_last) {
  z_stream stream{};
  // Runs alone: what filters leave of drawn pictures repeats too seldom for longer matches to pay.
  s.status = deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, -MAX_WBITS, MAX_MEM_LEVEL, Z_RLE);
  if (s.status != Z_OK) return;
  stream.next_in = s.filtered.data();
  stream.avail_in = static_cast<uInt>(s.filtered.size());
  stream.next_out = s.compressed.data() + s.compressed_bytes;
  stream.avail_out = static_cast<uInt>(s.compressed.size() - s.compressed_bytes);
  s.status = deflate(&stream, is_last ? Z_FINISH : Z_SYNC_FLUSH);
  const bool is_whole = is_last ? s.status == Z_STREAM_END : s.status == Z_OK && stream.avail_out > 0;
  s.status = is_whole ? Z_OK : Z_BUF_ERROR;
  s.compressed_bytes = s.compressed.size() - stream.avail_out;
  deflateEnd(&stream);
  s.checksum = adler32_z(1, s.filtered.data(), s.filtered.size());
}

}  // namespace

std::vector<std::vector<uint8_t>> compress_png_pixels(const Image& image) {
  const size_t height = static_cast<size_t>(image.height), row_bytes = static_cast<size_t>(image.width) * kPixelBytes;
  const size_t strip_rows = std::max<size_t>(kStripBytes / (row_bytes + 1), 1);
  constexpr std::array<uint8_t, 2> kHeader = {0x78, 0x01};  // of zlib: the largest window, fastest level
  std::vector<Strip> strips((height + strip_rows - 1) / strip_rows);
  for (size_t i = 0; i < strips.size(); ++i) {
    Strip& s = strips[i];
    s.first_row = i * strip_rows;
    s.end_row = std::min(height, s.first_row + strip_rows);
    s.row.resize(kPixelBytes + row_bytes);
    s.above.resize(kPixelBytes + row_bytes);
    s.tried.resize(row_bytes);
    s.filtered.resize((s.end_row - s.first_row) * (row_bytes + 1));
    s.compressed.resize(kHeader.size() + most_compressed(s.filtered.size()));
  }
  strips.front().compressed_bytes = kHeader.size();
  std::ranges::copy(kHeader, strips.front().compressed.begin());

#pragma omp parallel for schedule(dynamic) if (strips.size() > kSerialStrips)
  for (size_t i = 0; i < strips.size(); ++i) {
    filter(image, strips[i]);
    compress(strips[i], i + 1 == strips.size());
  }

  std::vector<std::vector<uint8_t>> chunks;
  uLong checksum = 1;
  for (Strip& s : strips) {
    require(s.status != Z_MEM_ERROR, ErrorKind::out_of_memory, "no memory to compress a PNG");
    check(s.status == Z_OK, "compressed pixels have the room that zlib asks for");
    checksum = adler32_combine(checksum, s.checksum, static_cast<z_off_t>(s.filtered.size()));
    s.compressed.resize(s.compressed_bytes);
    chunks.push_back(std::move(s.compressed));
  }
  for (const int shift : {24, 16, 8, 0}) chunks.back().push_back(static_cast<uint8_t>(checksum >> shift));
  return chunks;
}

}  // namespace nostos
