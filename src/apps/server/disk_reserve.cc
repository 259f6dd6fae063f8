// Implements the reserve of a disk.
#include "apps/server/disk_reserve.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>

namespace nostos::server {
namespace {

constexpr uint64_t kReserveBytes = uint64_t{8} << 20;  // two write-ahead logs of SQLite's usual length

/// \return the file system of `folder`; without blocks where it does not tell, as a tmpfs without a limit.
struct statvfs file_system(const std::filesystem::path& folder) {
  struct statvfs found {};
  if (::statvfs(folder.c_str(), &found) != 0) found.f_blocks = 0;
  return found;
}

uint64_t reserve_size(const std::filesystem::path& folder) {
  const struct statvfs found = file_system(folder);
  return found.f_blocks == 0 ? kReserveBytes : std::min<uint64_t>(kReserveBytes, found.f_blocks * found.f_frsize / 8);
}

}  // namespace

DiskReserve::DiskReserve(const std::filesystem::path& folder)
    : folder_(folder),
      size_(reserve_size(folder)),
      descriptor_(::open((folder / "reserve").c_str(), O_RDWR | O_CLOEXEC)) {}

std::string DiskReserve::take(uint64_t beyond) {
  const auto reason = [](int error) { return std::generic_category().message(error); };
  if (descriptor_ < 0) descriptor_.reset(::open((folder_ / "reserve").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (descriptor_ < 0) return reason(errno);
  // What an allocation that failed leaves half done must not stay.
  const auto allocate = [&](uint64_t bytes, uint64_t otherwise) {
    const int error = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes));
    const bool is_cut = ::ftruncate(descriptor_, static_cast<off_t>(error == 0 ? size_ : otherwise)) == 0;
    return error != 0 ? error : is_cut ? 0 : errno;
  };
  if (const int error = allocate(size_, 0)) return reason(error);
  const int error = allocate(size_ + beyond, size_);
  return error == 0 ? std::string() : reason(error);
}

void DiskReserve::release() {
  // A file that cannot be cut is one of a file system that is read-only: it has no bytes to give.
  if (descriptor_ >= 0) [[maybe_unused]]
    const int ignored = ::ftruncate(descriptor_, 0);
}

uint64_t DiskReserve::free_bytes() const {
  const struct statvfs found = file_system(folder_);
  return found.f_blocks == 0 ? std::numeric_limits<uint64_t>::max() : uint64_t{found.f_bavail} * found.f_frsize;
}

}  // namespace nostos::server
