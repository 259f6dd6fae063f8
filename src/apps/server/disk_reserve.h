// Owns a file that keeps some bytes of a disk free for when it is full.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "io/file.h"

namespace nostos::server {

/// One thread at a time, but for size() and free_bytes().
class DiskReserve {
 public:
  /// Takes over what an earlier process reserved in `folder`, and reserves nothing more by itself.
  explicit DiskReserve(const std::filesystem::path& folder);

  /// \return bytes that the reserve has once taken: 8 MiB, or an eighth of a smaller file system.
  uint64_t size() const { return size_; }
  /// Reserves the bytes unless that is done, and finds out whether `beyond` more could be written.
  /// \return why one of both cannot be had, or an empty text
  std::string take(uint64_t beyond);
  /// Gives the reserved bytes back to the file system.
  void release();
  /// \return bytes that the file system says are free to this process; the largest number where it does not say.
  uint64_t free_bytes() const;

 private:
  std::filesystem::path folder_;
  uint64_t size_;
  Descriptor descriptor_;
};

}  // namespace nostos::server
