// Owns finding the weights of one model part on disk, in one file or in shards, and the record of which were used.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/safetensors.h"

namespace nostos {

/// All weights of one part: `<folder>/<stem>.safetensors`, or the shards that `<folder>/<stem>.safetensors.index.json`
/// names, with stem "diffusion_pytorch_model" (diffusers) or "model" (transformers). Memory-mapped; move-only; one
/// thread at a time.
class WeightStore {
 public:
  /// \throws Error model: no weights (listing what was looked for), two sets of weights, a damaged file, an index that
  /// names a missing file or a path outside the folder, a tensor in two shards or not in the shard that the index says.
  static WeightStore open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }

  /// \return the tensor, recorded as used, or nothing. The view lives as long as the store.
  std::optional<ConstView> find(std::string_view name);
  /// \return the file that holds the tensor, or the folder if none does: for messages.
  std::string where(std::string_view name) const;
  /// \return the names never asked for, sorted.
  std::vector<std::string> unused() const;
  /// \return every tensor, sorted by name.
  std::vector<std::pair<std::string, TensorInfo>> list() const;

  /// Asks the kernel to read the tensor's pages ahead. Does nothing for an unknown name.
  void will_need(std::string_view name) const;
  /// Drops the tensor's pages from this process once it has been copied elsewhere, so that a mapped checkpoint does not
  /// count twice; a later access reads them again. Does nothing for an unknown name.
  void release(std::string_view name) const;

 private:
  struct Entry {
    size_t file;
    bool used = false;
  };

  explicit WeightStore(std::filesystem::path folder) : folder_(std::move(folder)) {}
  void add_file(const std::filesystem::path& file);
  void add_shards(const std::filesystem::path& index);

  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace nostos
