// Implements UTF-8 conversions.
#include "io/utf8.h"

#include <algorithm>
#include <cstddef>

namespace nostos {
namespace {

constexpr char32_t kReplacement = 0xfffd;

/// The bytes that may follow a lead byte (Unicode 15, table 3-7).
struct Lead {
  int continuations = -1;  ///< -1: no lead byte
  uint8_t second_low = 0x80;
  uint8_t second_high = 0xbf;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {0};
  if (byte >= 0xc2 && byte <= 0xdf) return {1};
  if (byte == 0xe0) return {2, 0xa0, 0xbf};
  if (byte == 0xed) return {2, 0x80, 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {2};
  if (byte == 0xf0) return {3, 0x90, 0xbf};
  if (byte >= 0xf1 && byte <= 0xf3) return {3};
  if (byte == 0xf4) return {3, 0x80, 0x8f};
  return {};
}

}  // namespace

std::u32string decode_utf8(std::string_view text) {
  std::u32string points;
  points.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<uint8_t>(text[i++]);
    const Lead lead = lead_of(first);
    if (lead.continuations <= 0) {
      points += lead.continuations == 0 ? char32_t{first} : kReplacement;
      continue;
    }
    char32_t point = first & (0x3fu >> lead.continuations);
    int left = lead.continuations;
    for (uint8_t low = lead.second_low, high = lead.second_high; left > 0 && i < text.size(); low = 0x80, high = 0xbf) {
      const auto next = static_cast<uint8_t>(text[i]);
      if (next < low || next > high) break;
      point = point << 6 | (next & 0x3fu);
      ++i;
      --left;
    }
    points += left == 0 ? point : kReplacement;
  }
  return points;
}

std::string encode_utf8(std::u32string_view points) {
  std::string text;
  text.reserve(points.size());
  for (const char32_t point : points) {
    const auto tail = [&](int shift) { text += static_cast<char>(0x80 | ((point >> shift) & 0x3f)); };
    if (point < 0x80) {
      text += static_cast<char>(point);
    } else if (point < 0x800) {
      text += static_cast<char>(0xc0 | point >> 6);
      tail(0);
    } else if (point < 0x10000) {
      text += static_cast<char>(0xe0 | point >> 12);
      tail(6);
      tail(0);
    } else {
      text += static_cast<char>(0xf0 | point >> 18);
      tail(12);
      tail(6);
      tail(0);
    }
  }
  return text;
}

bool is_one_line(std::string_view text) {
  const auto is_control = [](unsigned char c) { return c < ' ' || c == 127; };
  return encode_utf8(decode_utf8(text)) == text && std::ranges::none_of(text, is_control);
}

}  // namespace nostos
