// Implements the mending of invalid UTF-8, and normalization form C on utf8proc's character data.
#include "text/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "io/utf8.h"
#include "text/unicode_differences.h"

namespace nostos {
namespace {

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char byte) { return byte < 0x80; });
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
  return is_ascii(bytes) ? std::string(bytes) : encode_utf8(decode_utf8(bytes));
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
