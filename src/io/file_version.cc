// Implements versions of files.
#include "io/file_version.h"

#include <sys/stat.h>

#include <cerrno>

namespace nostos {

FileVersion file_version(const std::filesystem::path& file, std::error_code& error) {
  struct stat status {};
  error.clear();
  if (stat(file.c_str(), &status) != 0) {
    error.assign(errno, std::generic_category());
    return {};
  }
  const auto ns = [](const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; };
  return {status.st_dev, status.st_ino, status.st_size, ns(status.st_mtim), ns(status.st_ctim)};
}

}  // namespace nostos
