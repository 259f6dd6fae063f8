// Implements texts in a folder.
#include "io/folder_cache.h"

#include <exception>
#include <system_error>

#include "base/log.h"
#include "io/file.h"

namespace nostos {

std::optional<std::string> FolderCache::load(const std::string& name) const noexcept {
  constexpr size_t kMaxBytes = 1 << 20;
  try {
    const std::filesystem::path file = folder_ / name;
    std::error_code none;
    if (!std::filesystem::exists(file, none)) return {};
    return read_file(file, kMaxBytes);
  } catch (const std::exception& error) {
    log_debug("cannot read what was kept: {}", error.what());
    return {};
  }
}

void FolderCache::save(const std::string& name, const std::string& text) const noexcept {
  try {
    const std::filesystem::path path = folder_ / name;
    std::filesystem::create_directories(path.parent_path());
    AtomicFile file(path);
    file.write(text);
    file.commit(Survives::process);
  } catch (const std::exception& error) {
    log_debug("{} is not kept: {}", name, error.what());
  }
}

std::shared_ptr<const TextCache> FolderCache::in(const std::filesystem::path& folder) {
  return folder.empty() ? nullptr : std::make_shared<FolderCache>(folder);
}

}  // namespace nostos
