// Implements the layout of the Hugging Face cache.
#include "hub/model_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <set>
#include <system_error>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;

// Backup programs leave out folders with such a file: https://bford.info/cachedir/
constexpr std::string_view kCacheTag =
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by huggingface_hub.\n"
    "# For information about cache directory tags, see:\n"
    "#\thttps://bford.info/cachedir/\n";

void make_folder(const Path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(!error, ErrorKind::invalid_input, "cannot make the folder '{}': {}", folder.string(), error.message());
}

uint64_t size_of(const Path& file) {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(file, error);
  return error ? 0 : bytes;
}

/// \return whether the open lock file still has its name: who held it before may have removed it.
bool still_has_name(const Descriptor& descriptor, const Path& file) {
  struct stat open, named;
  return ::fstat(descriptor, &open) == 0 && ::stat(file.c_str(), &named) == 0 && open.st_ino == named.st_ino &&
         open.st_dev == named.st_dev;
}

void link_to_blob(const Path& place, const Path& blob) {
  make_folder(place.parent_path());
  const Path target = blob.lexically_relative(place.parent_path());
  std::error_code error;
  if (std::filesystem::read_symlink(place, error) == target) return;
  std::filesystem::remove(place, error);
  std::filesystem::create_symlink(target, place, error);
  // Another process may have made the same link just now.
  std::error_code ignored;
  if (error && std::filesystem::read_symlink(place, ignored) == target) return;
  require(!error, ErrorKind::invalid_input, "cannot make the link '{}': {}", place.string(), error.message());
}

}  // namespace

ModelCache::ModelCache(const Path& cache, const ModelName& model)
    : cache_(std::filesystem::absolute(cache).lexically_normal()),
      folder_(cache_ / ("models--" + model.owner + "--" + model.name)),
      locks_(cache_ / ".locks" / folder_.filename()) {
  for (const char* part : {"blobs", "refs", "snapshots"}) make_folder(folder_ / part);
  make_folder(locks_);
  const Path tag = cache_ / "CACHEDIR.TAG";
  std::error_code error;
  if (!std::filesystem::exists(tag, error))
    write_file_atomically(tag, std::span(reinterpret_cast<const uint8_t*>(kCacheTag.data()), kCacheTag.size()),
                          Survives::process);
}

bool ModelCache::has(const HubFile& file) const {
  std::error_code error;
  return std::filesystem::exists(blob(file), error) && size_of(blob(file)) == file.bytes;
}

uint64_t ModelCache::missing_bytes(std::span<const HubFile> files) const {
  uint64_t bytes = 0;
  std::set<std::string> seen;
  for (const HubFile& file : files) {
    if (!seen.insert(file.digest).second || has(file)) continue;
    const uint64_t there = size_of(blob(file).string() + ".incomplete");
    bytes += file.bytes - (there > file.bytes ? 0 : there);
  }
  return bytes;
}

void ModelCache::require_room(uint64_t bytes) const {
  struct statvfs status;
  if (::statvfs(folder_.c_str(), &status) != 0) return;
  const uint64_t free = static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
  require(bytes <= free, ErrorKind::invalid_input,
          "{:.2f} GB are to be fetched, and '{}' has room for {:.2f} GB: make room, or name a folder elsewhere in "
          "HF_HUB_CACHE",
          static_cast<double>(bytes) / 1e9, cache_.string(), static_cast<double>(free) / 1e9);
}

Descriptor ModelCache::lock(const HubFile& file, const std::function<bool()>& is_stopped) const {
  const Path place = locks_ / (file.digest + ".lock");
  for (bool has_told = false;;) {
    Descriptor descriptor(::open(place.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664));
    require(descriptor >= 0, ErrorKind::invalid_input, "cannot make '{}': {}", place.string(),
            std::generic_category().message(errno));
    // A file system without locks has nothing to wait for; PartialBlob bears it.
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) {
      if (still_has_name(descriptor, place)) return descriptor;
      continue;
    }
    if (!has_told) log_info("waiting for another download of '{}'", file.path);
    has_told = true;
    require(!is_stopped(), ErrorKind::cancelled, "interrupted");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

Path ModelCache::link(const std::string& commit, std::span<const HubFile> files) const {
  const Path snapshot = folder_ / "snapshots" / commit;
  std::vector<const HubFile*> ordered;
  for (const HubFile& file : files) ordered.push_back(&file);
  std::ranges::stable_partition(ordered, [](const HubFile* file) { return file->path != "model_index.json"; });
  for (const HubFile* file : ordered) link_to_blob(snapshot / file->path, blob(*file));
  return snapshot;
}

void ModelCache::set_reference(const std::string& revision, const std::string& commit) const {
  if (revision == commit) return;
  const Path place = folder_ / "refs" / revision;
  make_folder(place.parent_path());
  write_file_atomically(place, std::span(reinterpret_cast<const uint8_t*>(commit.data()), commit.size()));
}

}  // namespace nostos
