// Owns a file that is sent as the body of an answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "io/file.h"

namespace nostos::server {

/// A file that is open for reading. One that is removed meanwhile can still be read. Any thread.
class BodyFile {
 public:
  /// \throws Error invalid_input naming the file if it is missing or no file, internal if it cannot be opened
  explicit BodyFile(const std::filesystem::path& path);

  /// \return its bytes when it was opened.
  uint64_t size() const { return size_; }
  /// Fills `into` from byte `first` on, with less only at the file's end. \return bytes \throws Error internal
  size_t read(uint64_t first, std::span<char> into) const;

 private:
  Descriptor descriptor_;
  uint64_t size_ = 0;
};

}  // namespace nostos::server
