// Implements the reading of an answer's file.
#include "apps/server/body_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/error.h"

namespace nostos::server {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

}  // namespace

BodyFile::BodyFile(const std::filesystem::path& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  require(descriptor_ >= 0, errno == ENOENT ? ErrorKind::invalid_input : ErrorKind::internal, "cannot read '{}': {}",
          path.string(), reason(errno));
  struct stat status {};
  const bool is_file = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  require(is_file, ErrorKind::invalid_input, "cannot read '{}': it is no file", path.string());
  size_ = static_cast<uint64_t>(status.st_size);
}

size_t BodyFile::read(uint64_t first, std::span<char> into) const {
  size_t done = 0;
  while (done < into.size()) {
    const ssize_t bytes =
        ::pread(descriptor_, into.data() + done, into.size() - done, static_cast<off_t>(first + done));
    if (bytes < 0 && errno == EINTR) continue;
    require(bytes >= 0, ErrorKind::internal, "cannot read a file that is being sent: {}", reason(errno));
    if (bytes == 0) break;
    done += static_cast<size_t>(bytes);
  }
  return done;
}

}  // namespace nostos::server
