// Owns the folder of LoRAs that clients may name: what is in it, and what was found of each file when it was read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "apps/server/lora_wishes.h"
#include "io/file_version.h"
#include "pipeline/request.h"

namespace nostos::server {

/// A file that clients may name.
struct LoraFile {
  std::string name;  ///< its path in the folder without the ending; with it, where two files differ in that alone
  std::filesystem::path path;  ///< absolute
  uint64_t bytes = 0;

  /// \return the last part of its path without the ending, as A1111 names it.
  std::string alias() const { return path.stem().string(); }
};

/// What was found when a file was read.
struct LoraFacts {
  std::string sha256{};   ///< of its bytes
  std::string summary{};  ///< of what it changes, for people
  std::string error{};    ///< why the model cannot have it; empty: it can
};

/// What a file says of itself, by keyword: without long values, which are lists of training pictures and their tags.
using LoraMetadata = std::map<std::string, std::string>;

/// \return the file's, nothing for one that cannot be read: whoever uses it is told.
LoraMetadata read_lora_metadata(const std::filesystem::path& file);

/// Any thread.
class LoraFolder {
 public:
  /// \param read reads a file for the model, on one thread at a time. It gives hash and summary, and throws Error for a
  /// file that the model cannot have.
  /// \param read_metadata reads what a file says of itself
  /// \throws Error invalid_input if there is no such folder, or too much in it
  LoraFolder(const std::filesystem::path& folder, std::function<LoraFacts(const std::filesystem::path& file)> read,
             std::function<LoraMetadata(const std::filesystem::path& file)> read_metadata = read_lora_metadata);

  /// Looks through the folder and its subfolders, and forgets what was found of files that have gone. What a link leads
  /// to counts only if it lies in the folder, and is a file; hidden files, and names that are no line of UTF-8, do not.
  /// \return the files that end in .safetensors or .gguf, by name. \throws Error if the folder cannot be read
  std::vector<LoraFile> list() const;

  /// \return what was found of the file, unless it has changed since, or was never read. Reads nothing.
  std::optional<LoraFacts> known_facts(const LoraFile& file) const;

  /// \return what the file says of itself, which is read once, until the file changes.
  LoraMetadata metadata(const LoraFile& file) const;

  /// Looks the names up, and reads files that were not read since they changed: seconds, where they are large.
  /// \return the adapters with their hashes, in order. \throws ApiError 400 naming the field and the name, if there is
  /// no such file, the model cannot have it, or its hash is another than was wished for
  std::vector<AdapterUse> find(const std::vector<LoraWish>& wishes);

 private:
  /// What was found of a version of a file, as far as somebody has asked.
  struct Known {
    FileVersion version;
    std::optional<LoraFacts> facts{};
    std::optional<LoraMetadata> metadata{};
  };

  /// \return what is kept of the file in this version, made if nothing is. mutex_ is held.
  Known& known_of(const std::filesystem::path& file, const FileVersion& version) const;
  std::optional<LoraFile> file_at(const std::filesystem::directory_entry& entry) const;
  AdapterUse find_one(const LoraWish& wish, const std::vector<LoraFile>& files);
  LoraFacts facts_of(const LoraFile& file, const std::string& field);
  void forget_others(const std::vector<LoraFile>& files) const;

  const std::filesystem::path folder_;  // absolute, without links
  const std::function<LoraFacts(const std::filesystem::path& file)> read_;
  const std::function<LoraMetadata(const std::filesystem::path& file)> read_metadata_;
  std::mutex reading_;        // held while a file is read for the model
  mutable std::mutex mutex_;  // of known_, never held for long
  mutable std::map<std::filesystem::path, Known> known_;
};

}  // namespace nostos::server
