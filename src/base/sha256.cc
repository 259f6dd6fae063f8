// Implements SHA-256 on OpenSSL.
#include "base/sha256.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>

#include "base/error.h"

namespace nostos {

std::string sha256(std::span<const uint8_t> bytes) {
  std::array<uint8_t, 32> digest{};
  const int done = EVP_Digest(bytes.data(), bytes.size(), digest.data(), nullptr, EVP_sha256(), nullptr);
  check(done == 1, "OpenSSL computes SHA-256");
  std::string text;
  for (const uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace nostos
