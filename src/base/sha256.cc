// Implements SHA-256 of bytes in memory.
#include "base/sha256.h"

#include "base/digest.h"

namespace nostos {

std::string sha256(std::span<const uint8_t> bytes) {
  Digest digest(DigestKind::sha256);
  digest.update(std::as_bytes(bytes));
  return digest.finish();
}

}  // namespace nostos
