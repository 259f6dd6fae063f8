// Owns reading whole files, and writing files so that nothing partial is ever left under a file's name. Write every
// file through it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace nostos {

/// Owns a file descriptor, and closes it at the end. Below 0: none.
class Descriptor {
 public:
  explicit Descriptor(int value = -1) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(other.release()) {}
  ~Descriptor() { reset(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator int() const { return value_; }

  /// Closes the descriptor and takes `value` in its place.
  void reset(int value = -1);
  /// \return the descriptor, for the caller to close.
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

/// Opens a regular file for reading; never waits, as opening a pipe may for ever.
/// \throws Error `kind` naming the file if the file is missing (see why_unreadable()), unreadable, or no regular file
Descriptor open_to_read(const std::filesystem::path& path, ErrorKind kind);

/// \return the bytes of `path`.
/// \throws Error `kind` naming the file as open_to_read(), or if it is a git-lfs pointer, or larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, size_t max_bytes, ErrorKind kind = ErrorKind::invalid_input);

/// What a written file survives.
enum class Survives {
  process,  ///< the end of the process, however it comes; not a power cut in the seconds after
  machine,  ///< a power cut
};

/// A file being written. Bytes go to a temporary name in the same folder, and commit() renames the temporary file into
/// place. A file that is not committed vanishes. Where the path is a symbolic link, the link stays and the file that
/// the link names is replaced. A device or pipe has no contents to protect and is written directly. One thread uses an
/// AtomicFile.
class AtomicFile {
 public:
  /// \throws Error invalid_input naming the path if no file can be made there.
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends `bytes`. \throws Error internal naming the file, e.g. that no space is left.
  void write(std::span<const std::byte> bytes);
  /// Appends the bytes of `text`, as write().
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Puts the file under its name, after flushing it to disk if the file is to survive the machine. Call commit() once,
  /// and last.
  /// \throws Error internal
  void commit(Survives survives = Survives::machine);

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;  ///< empty when a device is written directly
  Descriptor descriptor_;
};

/// Writes `bytes` as the whole contents of `path`, through an AtomicFile.
/// \throws Error invalid_input if no file can be made there, internal on a full disk; `path` then is as it was before.
void write_file_atomically(const std::filesystem::path& path, std::span<const uint8_t> bytes,
                           Survives survives = Survives::machine);

/// Finds out, before any work starts, whether `path` can be written: whether the folder exists and a file can be made
/// in the folder. Leaves nothing behind.
/// \return the file that writing makes or replaces, with symbolic links followed; empty for a device or pipe.
/// \throws Error invalid_input saying what is in the way.
std::filesystem::path require_writable(const std::filesystem::path& path);

}  // namespace nostos
