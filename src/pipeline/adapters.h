// Owns the adapters of a model on a device: files that were read lately, and those whose changes the weights have.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "adapters/adapter.h"
#include "base/lru_cache.h"
#include "families/family.h"
#include "pipeline/request.h"

namespace nostos {

/// \return the adapters that have an effect, in order: without those of scale 0.
std::vector<AdapterUse> effective(std::span<const AdapterUse> adapters);

/// \return whether both lists change weights alike: the same files in the same order with the same scales.
bool same_changes(std::span<const AdapterUse> a, std::span<const AdapterUse> b);

/// \return the hash of a file's bytes, as AdapterUse has it. \throws Error model if it cannot be read
std::string file_sha256(const std::filesystem::path& file);

/// An adapter's file as it was read.
struct AdapterFile {
  std::string sha256;  ///< of its bytes
  std::shared_ptr<const Adapter> adapter;
};

/// Reads adapter files for one model, and keeps those of late. Any thread may use it, and none waits for a file that
/// another reads. It needs nothing of the family once it is made.
class AdapterFiles {
 public:
  explicit AdapterFiles(const Family& family);

  /// \return the file's changes, read anew if the file is another than it was.
  /// \throws Error invalid_input naming the file if it is not there, is another than the use's hash says, or is one
  /// that read_adapter() refuses
  AdapterFile read(const AdapterUse& use);

 private:
  static constexpr size_t kKeptBytes = size_t{2} << 30;

  AdapterTargets targets_;                               // never changed
  std::mutex mutex_;                                     // of what follows
  LruCache<std::string, AdapterFile> kept_{kKeptBytes};  // by path, size and time of the last change
};

}  // namespace nostos
