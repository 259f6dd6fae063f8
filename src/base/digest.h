// Owns checksums that are computed piece by piece. For bytes that are all in memory there is sha256().
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace nostos {

enum class DigestKind { sha1, sha256 };

/// A checksum of bytes that come one piece after the other. Move-only. One thread uses it.
class Digest {
 public:
  explicit Digest(DigestKind kind);
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;

  void update(std::span<const std::byte> bytes);
  /// \return the checksum of all bytes in hexadecimal digits, in lower case. Call it once, and last.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nostos
