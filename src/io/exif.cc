// Implements the Exif block.
#include "io/exif.h"

#include "io/utf8.h"

namespace nostos {
namespace {

void put16(std::vector<uint8_t>& out, uint32_t value) {
  out.push_back(static_cast<uint8_t>(value >> 8));
  out.push_back(static_cast<uint8_t>(value));
}

void put32(std::vector<uint8_t>& out, uint32_t value) {
  put16(out, value >> 16);
  put16(out, value & 0xffff);
}

/// Writes a directory of one entry, with no directory after it.
void put_directory(std::vector<uint8_t>& out, uint16_t tag, uint16_t type, uint32_t count, uint32_t value) {
  put16(out, 1);
  put16(out, tag);
  put16(out, type);
  put32(out, count);
  put32(out, value);
  put32(out, 0);
}

/// Reads numbers of a TIFF structure; what lies beyond its end is 0.
class TiffReader {
 public:
  explicit TiffReader(std::span<const uint8_t> bytes)
      : bytes_(bytes), is_big_endian_(!bytes.empty() && bytes[0] == 'M') {}

  uint32_t get16(size_t at) const { return get(at, 2); }
  uint32_t get32(size_t at) const { return get(at, 4); }

 private:
  uint32_t get(size_t at, size_t count) const {
    if (at > bytes_.size() || count > bytes_.size() - at) return 0;
    uint32_t value = 0;
    for (size_t i = 0; i < count; ++i) value = value << 8 | bytes_[is_big_endian_ ? at + i : at + count - 1 - i];
    return value;
  }

  std::span<const uint8_t> bytes_;
  bool is_big_endian_;
};

}  // namespace

std::vector<uint8_t> exif_user_comment(std::string_view comment) {
  std::vector<uint8_t> utf16;
  for (char32_t point : decode_utf8(comment)) {
    if (point == 0) point = 0xfffd;
    if (point >= 0x10000) {
      put16(utf16, 0xd800 + ((point - 0x10000) >> 10));
      put16(utf16, 0xdc00 + ((point - 0x10000) & 0x3ff));
    } else {
      put16(utf16, point);
    }
  }

  constexpr std::string_view kCode("UNICODE\0", 8);
  constexpr uint32_t kHeaderBytes = 8;
  constexpr uint32_t kDirectoryBytes = 18;
  constexpr uint16_t kLong = 4;
  constexpr uint16_t kUndefined = 7;
  constexpr uint16_t kExifDirectoryTag = 0x8769;
  constexpr uint16_t kUserCommentTag = 0x9286;
  std::vector<uint8_t> out = {'M', 'M', 0, 42};
  put32(out, kHeaderBytes);
  put_directory(out, kExifDirectoryTag, kLong, 1, kHeaderBytes + kDirectoryBytes);
  put_directory(out, kUserCommentTag, kUndefined, static_cast<uint32_t>(kCode.size() + utf16.size()),
                kHeaderBytes + 2 * kDirectoryBytes);
  out.insert(out.end(), kCode.begin(), kCode.end());
  out.insert(out.end(), utf16.begin(), utf16.end());
  return out;
}

int exif_orientation(std::span<const uint8_t> exif) {
  constexpr uint32_t kVersion = 42, kOrientationTag = 0x0112, kShort = 3;
  constexpr size_t kEntryBytes = 12;
  const TiffReader tiff(exif);
  const bool is_tiff = exif.size() >= 8 && exif[0] == exif[1] && (exif[0] == 'M' || exif[0] == 'I');
  if (!is_tiff || tiff.get16(2) != kVersion) return 1;
  const size_t directory = tiff.get32(4);
  const uint32_t entries = tiff.get16(directory);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + i * kEntryBytes;
    if (tiff.get16(entry) != kOrientationTag) continue;
    const uint32_t value = tiff.get16(entry + 8);
    return tiff.get16(entry + 2) == kShort && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace nostos
