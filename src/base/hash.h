// Owns the hash by which bytes are told apart where nobody attacks: no checksum, and no key of a map that clients fill.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace nostos {

/// \return the 64-bit FNV-1a hash of `bytes`.
constexpr uint64_t fnv1a(std::span<const uint8_t> bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}
inline uint64_t fnv1a(std::string_view text) {
  return fnv1a(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

}  // namespace nostos
