// Owns the bytes of a file that is only read: mapped into memory, or read where they are few.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

namespace nostos {

/// A file's bytes. Those of a file of at most kReadBytes are read once and stay as they are; a larger file is mapped,
/// so that it must not be cut short by others: the system ends a process that reads beyond its end (SIGBUS).
/// Move-only; spans stay valid across moves, not beyond the object.
class MappedFile {
 public:
  static constexpr size_t kReadBytes = size_t{1} << 20;

  /// \throws Error model naming the file if it is missing, unreadable, no file or a git-lfs pointer.
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Looks whether a mapped file still has all its bytes. \throws Error model if it has been cut short since.
  void require_whole() const;
  /// Asks the kernel to read these bytes ahead, which lie in bytes().
  void will_need(std::span<const std::byte> part) const;
  /// Drops the pages of a mapped file that hold nothing but these bytes; a later access reads them again.
  void release(std::span<const std::byte> part) const;

 private:
  void swap(MappedFile& other) noexcept;

  std::filesystem::path path_;
  int descriptor_ = -1;  ///< of a mapped file
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::vector<std::byte> read_;  ///< what a small file held
};

}  // namespace nostos
