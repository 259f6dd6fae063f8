// Owns the interface to small texts that outlive the process: what it took trials to find out. A Context may have one;
// io/folder_cache.h keeps them on disk.
#pragma once

#include <optional>
#include <string>

namespace nostos {

/// Texts by name; a name may have parts, "kind/product". Any thread. Nothing depends on whether a text is kept: where
/// that cannot be, a message at level debug says why.
class TextCache {
 public:
  virtual ~TextCache() = default;
  /// \return the text, nothing if none is kept or it cannot be read.
  virtual std::optional<std::string> load(const std::string& name) const noexcept = 0;
  virtual void save(const std::string& name, const std::string& text) const noexcept = 0;
};

}  // namespace nostos
