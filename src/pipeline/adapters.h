// Owns the adapters of a model on a device: files that were read lately, and those whose changes the weights have.
#pragma once

#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adapters/adapter.h"
#include "base/lru_cache.h"
#include "families/family.h"
#include "io/file_version.h"
#include "pipeline/request.h"

namespace nostos {

/// \return the adapters that have an effect, in order: without those of scale 0.
std::vector<AdapterUse> effective(std::span<const AdapterUse> adapters);

/// \return whether both lists change weights alike: the same files in the same order with the same scales.
bool same_changes(std::span<const AdapterUse> a, std::span<const AdapterUse> b);

/// \return the hash of a file's bytes, as AdapterUse has it. \throws Error model if it cannot be read
std::string file_sha256(const std::filesystem::path& file);

/// Hashes of files' bytes. A file is hashed once, until it changes. Any thread.
class FileHashes {
 public:
  /// \return file_sha256(). \throws Error likewise
  std::string of(const std::filesystem::path& file);

 private:
  static constexpr size_t kKeptHashes = 4096;

  std::mutex mutex_;
  LruCache<FileVersion, std::string> known_{kKeptHashes};
};

/// An adapter's file as it was read.
struct AdapterFile {
  std::string sha256;  ///< of its bytes
  std::shared_ptr<const Adapter> adapter;
};

/// Reads adapter files for one model, and keeps those of late. Any thread may use it; one waits for another only where
/// both want the same file. It needs nothing of the family once it is made, and lists the model's tensors with the
/// first file.
class AdapterFiles {
 public:
  /// \param hashes that it shares with others; null: its own
  explicit AdapterFiles(const Family& family, std::shared_ptr<FileHashes> hashes = {});

  /// \return the file's changes, read anew if the file is another than it was.
  /// \throws Error invalid_input naming the file if it is not there, is another than the use's hash says, or is one
  /// that read_adapter() refuses
  AdapterFile read(const AdapterUse& use);

 private:
  using Key = std::pair<std::string, FileVersion>;  // absolute path, which messages name, and version
  /// A file that was read, or why it could not be.
  struct Reading {
    AdapterFile file;
    std::exception_ptr failure;
  };
  static constexpr size_t kKeptBytes = size_t{2} << 30;

  const AdapterTargets& targets();
  Reading read_now(const std::string& path);

  const std::function<AdapterTargets()> list_targets_;
  std::once_flag listing_;
  std::optional<AdapterTargets> targets_;  // from then on never changed
  std::shared_ptr<FileHashes> hashes_;
  std::mutex mutex_;  // of what follows
  LruCache<Key, AdapterFile> kept_{kKeptBytes};
  std::map<Key, std::shared_future<Reading>> under_way_;
};

}  // namespace nostos
