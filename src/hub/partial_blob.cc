// Implements files that grow over several processes.
#include "hub/partial_blob.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "base/error.h"

namespace nostos {

PartialBlob::PartialBlob(std::filesystem::path blob, const HubFile& file, std::function<void(int64_t)> on_bytes,
                         const std::function<bool()>& is_stopped)
    : blob_(std::move(blob)),
      partial_(blob_.string() + ".incomplete"),
      file_(file),
      on_bytes_(std::move(on_bytes)),
      descriptor_(::open(partial_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)),
      digest_(file.begin_digest()) {
  if (descriptor_ < 0) fail_to_write(errno);
  constexpr size_t kChunkBytes = size_t{1} << 20;
  std::vector<std::byte> chunk(kChunkBytes);
  for (;;) {
    require(!is_stopped(), ErrorKind::cancelled, "interrupted");
    const ssize_t got = ::pread(descriptor_, chunk.data(), chunk.size(), static_cast<off_t>(bytes_));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_to_write(errno);
    if (got == 0) break;
    digest_.update({chunk.data(), static_cast<size_t>(got)});
    bytes_ += static_cast<uint64_t>(got);
    on_bytes_(got);
    if (bytes_ > file_.bytes) break;
  }
  if (bytes_ > file_.bytes) restart();
}

void PartialBlob::fail_to_write(int error) const {
  const std::string reason = std::generic_category().message(error);
  if (error == ENOSPC || error == EDQUOT)
    fail(ErrorKind::internal,
         "cannot write '{}': no space left on the device; what is there is kept: make room and pull again, or name a "
         "folder elsewhere in HF_HUB_CACHE",
         partial_.string());
  fail(ErrorKind::invalid_input, "cannot write '{}': {}", partial_.string(), reason);
}

// Each byte has one place, so that two processes that both hold the lock, as some network file systems let them, write
// the same.
void PartialBlob::append(std::span<const std::byte> bytes) {
  if (bytes.size() > file_.bytes - bytes_) return restart();
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(bytes_));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_to_write(errno);
    const auto written = static_cast<size_t>(done);
    digest_.update(bytes.first(written));
    bytes_ += written;
    on_bytes_(done);
    bytes = bytes.subspan(written);
  }
}

void PartialBlob::restart() {
  if (::ftruncate(descriptor_, 0) != 0) fail_to_write(errno);
  on_bytes_(-static_cast<int64_t>(bytes_));
  bytes_ = 0;
  digest_ = file_.begin_digest();
}

bool PartialBlob::commit() {
  if (digest_.finish() != file_.digest) {
    restart();
    return false;
  }
  if (::fsync(descriptor_) != 0) fail_to_write(errno);
  if (::rename(partial_.c_str(), blob_.c_str()) != 0) fail_to_write(errno);
  return true;
}

}  // namespace nostos
