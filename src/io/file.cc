// Implements whole-file reading and atomic writing.
#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <tuple>

#include "io/unfinished.h"

namespace nostos {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

/// \return the folder that holds `file`.
std::filesystem::path folder_of(const std::filesystem::path& file) {
  return file.has_parent_path() ? file.parent_path() : std::filesystem::path(".");
}

/// Makes a new file of a name nobody else uses in `folder`. \return its descriptor (-1 with errno set on failure) and
/// path.
std::pair<int, std::filesystem::path> make_temporary(const std::filesystem::path& folder) {
  static std::atomic<unsigned> counter{0};
  for (;;) {
    const std::filesystem::path path =
        folder / fmt::format(".nostos-{}-{}.tmp", static_cast<long>(::getpid()), counter.fetch_add(1));
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor >= 0 || errno != EEXIST) return {descriptor, path};
  }
}

/// What a path is before it is written.
struct Target {
  std::filesystem::path path;  ///< with symbolic links followed
  bool is_device = false;      ///< exists and is neither a file nor a folder
};

/// \return where `path` leads if it is a symbolic link, to something or to nothing yet.
std::filesystem::path follow_links(std::filesystem::path path) {
  constexpr int kMostLinks = 40;  // as the system's own
  std::error_code error;
  for (int links = 0; links < kMostLinks && std::filesystem::is_symlink(path, error); ++links)
    path = folder_of(path) / std::filesystem::read_symlink(path, error);
  return path;
}

/// \throws Error invalid_input if `path` is empty, a folder, a read-only file, in no folder or no name for a file.
Target inspect_target(const std::filesystem::path& path) {
  require(!path.empty(), ErrorKind::invalid_input, "cannot write a file without a name");
  require(path.has_filename(), ErrorKind::invalid_input, "cannot write '{}': it names a folder, give a file name",
          path.string());
  std::error_code error;
  // Absolute first: a relative name of nothing that is there would stay as it is.
  Target target{std::filesystem::weakly_canonical(std::filesystem::absolute(follow_links(path), error), error)};
  if (error) target.path = path;
  const std::filesystem::file_status status = std::filesystem::status(target.path, error);
  if (std::filesystem::exists(status)) {
    require(!std::filesystem::is_directory(status), ErrorKind::invalid_input,
            "cannot write '{}': it is a folder, give a file name", path.string());
    const bool is_writable = ::access(target.path.c_str(), W_OK) == 0;
    require(is_writable, ErrorKind::invalid_input, "cannot write '{}': {}", path.string(), reason(errno));
    target.is_device = !std::filesystem::is_regular_file(status);
  } else {
    require(status.type() == std::filesystem::file_type::not_found, ErrorKind::invalid_input, "cannot write '{}': {}",
            path.string(), error.message());
    require(std::filesystem::is_directory(folder_of(target.path), error), ErrorKind::invalid_input,
            "cannot write '{}': the folder '{}' does not exist", path.string(), folder_of(path).string());
  }
  return target;
}

[[noreturn]] void fail_to_write(const std::filesystem::path& target, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    fail(ErrorKind::internal, "cannot write '{}': no space left on the device", target.string());
  }
  fail(ErrorKind::internal, "cannot write '{}': {}", target.string(), reason(error));
}

}  // namespace

void Descriptor::reset(int value) {
  if (value_ >= 0) ::close(value_);
  value_ = value;
}

Descriptor open_to_read(const std::filesystem::path& path, ErrorKind kind) {
  Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status;
  if (descriptor < 0 || ::fstat(descriptor, &status) != 0)
    fail(kind, "cannot read '{}': {}", path.string(), why_unreadable(path, errno));
  const char* const what = S_ISDIR(status.st_mode) ? "directory" : S_ISFIFO(status.st_mode) ? "pipe" : "device";
  require(S_ISREG(status.st_mode), kind, "cannot read '{}': it is no file but a {}", path.string(), what);
  return descriptor;
}

std::string read_file(const std::filesystem::path& path, size_t max_bytes, ErrorKind kind) {
  const Descriptor descriptor = open_to_read(path, kind);
  std::string bytes;
  struct stat status;
  if (::fstat(descriptor, &status) == 0) bytes.reserve(std::min(static_cast<size_t>(status.st_size), max_bytes) + 1);
  constexpr size_t kChunkBytes = size_t{1} << 20;
  for (;;) {
    const size_t before = bytes.size();
    const size_t wanted = std::min(kChunkBytes, std::max(bytes.capacity() - before, size_t{4096}));
    bytes.resize(before + wanted);
    const ssize_t got = ::read(descriptor, bytes.data() + before, wanted);
    const int error = errno;
    bytes.resize(before + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0 && error == EINTR) continue;
    require(got >= 0, kind, "cannot read '{}': {}", path.string(), reason(error));
    require(bytes.size() <= max_bytes, kind, "'{}' is larger than the {} bytes allowed here", path.string(), max_bytes);
    if (got == 0) break;
  }
  require(!is_lfs_pointer(bytes), kind, "'{}' {}", path.string(), kLfsAdvice);
  return bytes;
}

AtomicFile::AtomicFile(const std::filesystem::path& path) {
  const Target target = inspect_target(path);
  target_ = target.path;
  if (target.is_device) {
    descriptor_.reset(::open(target_.c_str(), O_WRONLY | O_CLOEXEC));
  } else {
    int made = -1;
    std::tie(made, temporary_) = make_temporary(folder_of(target_));
    descriptor_.reset(made);
  }
  if (descriptor_ >= 0) return;
  const int error = errno;
  if (error == ENOSPC || error == EDQUOT) fail_to_write(target_, error);
  fail(ErrorKind::invalid_input, "cannot write '{}': {}", path.string(), reason(error));
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  constexpr size_t kMostBytesACall = size_t{1} << 30;
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor_, bytes.data(), std::min(bytes.size(), kMostBytesACall));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_to_write(target_, errno);
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void AtomicFile::commit(Survives survives) {
  const bool to_disk = survives == Survives::machine;
  // A device or pipe cannot be flushed to disk: EINVAL.
  if (to_disk && ::fsync(descriptor_) != 0 && !temporary_.empty()) fail_to_write(target_, errno);
  if (::close(descriptor_.release()) != 0 && errno != EINTR) fail_to_write(target_, errno);
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail_to_write(target_, errno);
  temporary_.clear();
  if (!to_disk) return;
  // The new name survives a power cut only once the folder is on disk too; where a file system cannot do it, the file
  // is whole anyway.
  const Descriptor folder(::open(folder_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder >= 0) ::fsync(folder);
}

void write_file_atomically(const std::filesystem::path& path, std::span<const uint8_t> bytes, Survives survives) {
  AtomicFile file(path);
  file.write(std::as_bytes(bytes));
  file.commit(survives);
}

std::filesystem::path require_writable(const std::filesystem::path& path) {
  const Target target = inspect_target(path);
  if (target.is_device) return {};
  const auto [descriptor, temporary] = make_temporary(folder_of(target.path));
  require(descriptor >= 0, ErrorKind::invalid_input, "cannot write '{}': {}", path.string(), reason(errno));
  ::close(descriptor);
  ::unlink(temporary.c_str());
  return target.path;
}

}  // namespace nostos
