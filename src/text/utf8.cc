// Implements the mending of invalid UTF-8, and normalization form C on utf8proc's character data.
#include "text/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "text/unicode_differences.h"

namespace nostos {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char byte) { return byte < 0x80; });
}

/// \return the length in bytes of a character whose first byte is `lead`, or 0 if no character begins so.
std::size_t character_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

/// \return whether `second` may follow `lead` (Unicode 15, table 3-7): this is where overlong forms, surrogates and
/// code points above U+10FFFF end.
bool is_second_byte(unsigned char lead, unsigned char second) {
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return second >= low && second <= high;
}

/// Appends the full canonical decomposition of `code_point` to `out`.
void decompose(utf8proc_int32_t code_point, std::vector<utf8proc_int32_t>& out) {
  std::array<utf8proc_int32_t, 16> parts;
  int last_boundary_class = 0;
  const utf8proc_ssize_t count = utf8proc_decompose_char(
      code_point, parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &last_boundary_class);
  check(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()), "canonical decomposition of a code point");
  out.insert(out.end(), parts.begin(), parts.begin() + count);
}

/// Puts every run of combining marks into canonical order. utf8proc's own ordering takes quadratic time in the run.
void order_marks(std::vector<utf8proc_int32_t>& code_points) {
  const auto combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto begin = code_points.begin(); begin != code_points.end();) {
    if (combining_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, code_points.end(), [&](auto c) { return combining_class(c) == 0; });
    std::stable_sort(begin, end, [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

/// Composes the decomposed `code_points`, appends them to `out` as UTF-8 and clears them.
void append_composed(std::vector<utf8proc_int32_t>& code_points, std::string& out) {
  order_marks(code_points);
  const utf8proc_ssize_t count =
      utf8proc_normalize_utf32(code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  check(count >= 0, "composition of valid code points");
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    std::array<utf8proc_uint8_t, 4> bytes;
    const utf8proc_ssize_t length = utf8proc_encode_char(code_points[static_cast<std::size_t>(i)], bytes.data());
    out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(length));
  }
  code_points.clear();
}

}  // namespace

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string valid;
  valid.reserve(bytes.size());
  for (std::size_t begin = 0; begin < bytes.size();) {
    const auto byte = [&](std::size_t offset) { return static_cast<unsigned char>(bytes[begin + offset]); };
    const std::size_t length = character_length(byte(0));
    std::size_t good = 1;
    while (good < length && begin + good < bytes.size() &&
           (good == 1 ? is_second_byte(byte(0), byte(1)) : (byte(good) & 0xC0) == 0x80)) {
      ++good;
    }
    valid += good == length ? bytes.substr(begin, length) : kReplacementCharacter;
    begin += good;
  }
  return valid;
}

std::string normalize_nfc(std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  std::string normalized;
  normalized.reserve(text.size());
  std::vector<utf8proc_int32_t> code_points;
  while (!text.empty()) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                                     static_cast<utf8proc_ssize_t>(text.size()), &code_point);
    check(length > 0, "normalize_nfc is given valid UTF-8");
    if (in_ranges(kNewerMarks, static_cast<uint32_t>(code_point))) {
      append_composed(code_points, normalized);
      normalized += text.substr(0, static_cast<std::size_t>(length));
    } else {
      decompose(code_point, code_points);
    }
    text.remove_prefix(static_cast<std::size_t>(length));
  }
  append_composed(code_points, normalized);
  return normalized;
}

}  // namespace nostos
