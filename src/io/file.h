// Owns reading whole files and writing files so that nothing partial is ever left under their name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace nostos {

/// \return the bytes of `path`.
/// \throws Error `kind` naming the file if it is missing (see why_unreadable()), unreadable, no file, a git-lfs
/// pointer, or larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, size_t max_bytes, ErrorKind kind = ErrorKind::invalid_input);

/// What a written file survives.
enum class Survives {
  process,  ///< the end of the process, however it comes; not a power cut in the seconds after
  machine,  ///< a power cut
};

/// A file being written: bytes go to a temporary name in the same folder, commit() renames it into place and an
/// uncommitted file vanishes. A symbolic link is followed, so that what it points to is replaced. A device or pipe has
/// no contents to protect and is written directly. One thread.
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
  /// Puts the file under its name, first flushed to disk if it is to survive the machine. Call once, last.
  /// \throws Error internal
  void commit(Survives survives = Survives::machine);

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;  ///< empty when a device is written directly
  int descriptor_ = -1;
};

/// Writes `bytes` as the whole contents of `path`, as AtomicFile does.
/// \throws Error invalid_input if no file can be made there, internal on a full disk; `path` is then as it was before.
void write_file_atomically(const std::filesystem::path& path, std::span<const uint8_t> bytes,
                           Survives survives = Survives::machine);

/// Finds out, before any work starts, whether `path` can be written: its folder exists and a file can be made in it.
/// Leaves nothing behind. \return the file that writing makes or replaces, with symbolic links followed; empty for a
/// device or pipe. \throws Error invalid_input saying what is in the way.
std::filesystem::path require_writable(const std::filesystem::path& path);

}  // namespace nostos
