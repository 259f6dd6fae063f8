// Owns the texts that are kept in a folder of the user's from one process to the next.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/text_cache.h"

namespace nostos {

/// A file a text, of at most 1 MiB. Processes may share the folder: each sees a file whole or not at all.
class FolderCache final : public TextCache {
 public:
  /// \param folder made with the first text that is kept.
  explicit FolderCache(std::filesystem::path folder) : folder_(std::move(folder)) {}
  std::optional<std::string> load(const std::string& name) const noexcept override;
  void save(const std::string& name, const std::string& text) const noexcept override;

  /// \return the cache in `folder`; null, which keeps nothing, if that is "".
  static std::shared_ptr<const TextCache> in(const std::filesystem::path& folder);

 private:
  std::filesystem::path folder_;
};

}  // namespace nostos
