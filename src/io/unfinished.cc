// Implements the search for what a download or a checkout left unfinished.
#include "io/unfinished.h"

#include <fmt/format.h>

#include <cerrno>
#include <system_error>

namespace nostos {
namespace {

using Path = std::filesystem::path;

/// \return a file in `folder` or below that a download has not ended, "" if there is none.
Path find_partial(const Path& folder) {
  std::error_code error;
  std::filesystem::recursive_directory_iterator entry(folder, error), end;
  for (; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == ".incomplete") return entry->path();
  }
  return {};
}

/// \return the nearest of `path` and its parents that is a link to nothing, "" if none is.
Path dangling_link(Path path) {
  std::error_code error;
  for (; !path.empty() && path != path.parent_path(); path = path.parent_path()) {
    if (std::filesystem::is_symlink(path, error) && !std::filesystem::exists(path, error)) return path;
  }
  return {};
}

}  // namespace

std::string partial_download(const Path& path) {
  std::error_code error;
  const Path absolute = std::filesystem::absolute(path, error).lexically_normal();
  for (Path folder = absolute; folder != folder.parent_path(); folder = folder.parent_path()) {
    // A cache keeps partial files among its blobs, `hf download --local-dir` in a folder of its own.
    const bool is_cached = folder.filename() == "snapshots";
    const Path partial =
        find_partial(is_cached ? folder.parent_path() / "blobs" : folder / ".cache/huggingface/download");
    if (!partial.empty()) return fmt::format(" (the download is incomplete: '{}' is a part of it)", partial.string());
    if (is_cached) break;
  }
  return "";
}

std::string why_unreadable(const Path& path, int error) {
  const std::string reason = std::generic_category().message(error);
  if (error != ENOENT) return reason;
  const Path link = dangling_link(path);
  const std::string partial = partial_download(path);
  if (link.empty()) return reason + partial;
  std::error_code ignored;
  const Path target = std::filesystem::read_symlink(link, ignored);
  return fmt::format("{} is a link to '{}', which does not exist{}", link == path ? "it" : "'" + link.string() + "'",
                     target.string(), partial.empty() ? " (is the download incomplete?)" : partial);
}

std::string why_not_there(const Path& path) {
  std::error_code error;
  static_cast<void>(std::filesystem::status(path, error));
  return why_unreadable(path, error ? error.value() : ENOENT);
}

bool is_lfs_pointer(std::string_view bytes) {
  constexpr size_t kMaxPointerBytes = 1024;  // as git-lfs itself
  return bytes.size() <= kMaxPointerBytes && bytes.starts_with("version ") &&
         bytes.find("\noid ") != std::string_view::npos && bytes.find("\nsize ") != std::string_view::npos;
}

}  // namespace nostos
