// Fuzzes the handling of text in any bytes: decoding, mending, normalization and Exif comments.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "io/exif.h"
#include "io/utf8.h"
#include "text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::u32string points = decode_utf8(bytes);
  for (const char32_t point : points) {
    if (point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) std::abort();
  }
  const std::string valid = replace_invalid_utf8(bytes);
  if (valid != encode_utf8(points) || decode_utf8(valid) != points || replace_invalid_utf8(valid) != valid)
    std::abort();
  const std::string normal = normalize_nfc(valid);
  if (replace_invalid_utf8(normal) != normal || normalize_nfc(normal) != normal) std::abort();
  // Eight bytes name the comment's encoding, each unit of UTF-16 takes two.
  if (exif_user_comment(bytes).size() < 8 + 2 * points.size()) std::abort();
  return 0;
}
