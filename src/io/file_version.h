// Owns which version of a file is at a place: what is kept of a file's contents is kept under its version.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <filesystem>
#include <system_error>

namespace nostos {

/// Changes when somebody writes to the file, or puts another file in its place. Times are nanoseconds since 1970.
struct FileVersion {
  dev_t device = 0;
  ino_t inode = 0;
  off_t bytes = 0;
  int64_t changed_ns = 0;         ///< its contents, as programs say that copy files with their times
  int64_t status_changed_ns = 0;  ///< its contents or its status, which no program can choose

  friend auto operator<=>(const FileVersion&, const FileVersion&) = default;
};

/// \return the version of the file that is there, links followed. \param error why there is none, or cleared
FileVersion file_version(const std::filesystem::path& file, std::error_code& error);

}  // namespace nostos
