// Implements ids, key comparison and base64.
#include "apps/server/identifiers.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/hash.h"

namespace nostos::server {
namespace {

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr uint8_t kNoBase64 = 64;

/// The value of each byte that base64 uses; pictures of megabytes are read by it.
constexpr std::array<uint8_t, 256> kBase64Values = [] {
  std::array<uint8_t, 256> values{};
  values.fill(kNoBase64);
  for (size_t i = 0; i < kBase64.size(); ++i) values[static_cast<uint8_t>(kBase64[i])] = static_cast<uint8_t>(i);
  return values;
}();

template <size_t kBytes>
std::array<uint8_t, kBytes> random_bytes() {
  std::array<uint8_t, kBytes> bytes;
  check(getrandom(bytes.data(), kBytes, 0) == static_cast<ssize_t>(kBytes), "the system gives random bytes");
  return bytes;
}

}  // namespace

std::string random_id(std::string_view prefix) {
  std::string id(prefix);
  for (const uint8_t byte : random_bytes<12>()) id += fmt::format("{:02x}", byte);
  return id;
}

uint64_t random_seed() {
  uint64_t seed = 0;
  for (const uint8_t byte : random_bytes<4>()) seed = seed << 8 | byte;
  return seed;
}

std::string request_id(std::string_view given) {
  const auto is_plain = [](unsigned char c) { return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-'; };
  if (!given.empty() && given.size() <= 64 && std::ranges::all_of(given, is_plain)) return std::string(given);
  return random_id("req_");
}

bool equal_in_constant_time(std::string_view secret, std::string_view given) {
  volatile uint8_t difference = secret.size() == given.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    const char expected = secret.empty() ? '\0' : secret[i % secret.size()];
    difference = static_cast<uint8_t>(difference | (static_cast<uint8_t>(expected) ^ static_cast<uint8_t>(given[i])));
  }
  return difference == 0;
}

std::string fingerprint(std::string_view text) { return fmt::format("{:016x}", fnv1a(text)); }

std::string to_base64(std::string_view bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (j < count ? static_cast<uint8_t>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j) text += j <= count ? kBase64[group >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

std::string from_base64(std::string_view text, Base64Form form) {
  const auto is_space = [form](char c) {
    return form == Base64Form::with_spaces && (c == ' ' || c == '\t' || c == '\r' || c == '\n');
  };
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 3);
  uint32_t group = 0;
  int bits = 0;
  while (!text.empty() && (text.back() == '=' || is_space(text.back()))) text.remove_suffix(1);
  for (const char c : text) {
    if (is_space(c)) continue;
    const uint8_t value = kBase64Values[static_cast<uint8_t>(c)];
    if (value == kNoBase64) return {};
    group = group << 6 | value;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes += static_cast<char>(group >> bits & 255);
  }
  return bytes;
}

}  // namespace nostos::server
