// Owns the bytes of a file that is only read: a large file is mapped into memory, a small one is read. Weights are read
// through it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

#include "io/file.h"

namespace nostos {

/// A file's bytes. A file of at most kReadBytes is read once, and its bytes stay as they are. A larger file is mapped.
/// Nobody may cut a mapped file short: the system ends a process that reads beyond the file's end (SIGBUS). Spans live
/// as long as the object.
class MappedFile {
 public:
  static constexpr size_t kReadBytes = size_t{1} << 20;

  /// \throws Error model naming the file if the file is missing, unreadable, no regular file or a git-lfs pointer.
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Looks whether a mapped file still has all its bytes.
  /// \throws Error model if the file has been cut short since it was mapped
  void require_whole() const;
  /// Asks the kernel to read `part` of bytes() ahead.
  void will_need(std::span<const std::byte> part) const;
  /// Drops the pages of a mapped file that hold nothing but `part`. A later access reads the pages again.
  void release(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  Descriptor descriptor_;  ///< of a mapped file
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::vector<std::byte> read_;  ///< what a small file held
};

}  // namespace nostos
