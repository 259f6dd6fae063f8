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

}  // namespace nostos
