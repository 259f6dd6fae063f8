// Owns finding the weights of one model part on disk, in one file or in shards, and opening each place once for all
// that read it.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/json_config.h"
#include "io/layer_formats.h"
#include "io/tensor_file.h"

namespace nostos {

/// \return `names` for a message: the first `most` of them, and how many more there are.
std::string join_some(std::span<const std::string> names, size_t most);

/// \return which file holds each tensor, as the `weight_map` of a sharded checkpoint's index says.
/// \throws Error model naming the index and the field: missing, or a file outside the index's folder.
std::map<std::string, std::string> read_weight_map(const JsonConfig& index);

/// A file of a part's folder that holds its weights, or says which files do.
struct WeightFile {
  std::string name;
  std::string variant;    ///< "" for the plain weights
  bool is_index = false;  ///< names shards: see read_weight_map()
};

/// \return whether a file is one of weights, or an index of them, by its name.
bool is_weight_file(const std::string& name);

/// \param names of all that is in the folder
/// \return the files that WeightStore::open() would try, in its order: at least one, all of one variant.
/// \throws Error model as WeightStore::open(), naming the folder
std::vector<WeightFile> weight_files(const std::filesystem::path& folder, std::span<const std::string> names,
                                     const std::string& variant);

/// All weights of one part: `STEM.safetensors`, or the shards that `STEM.safetensors.index.json` names, with stem
/// "diffusion_pytorch_model" (diffusers) or "model" (transformers). A variant V of them is `STEM.V.safetensors`, or the
/// shards of `STEM.safetensors.index.V.json`, or of the older `STEM.safetensors.V.index.json`.
/// Where there are several, the one is taken that the stem's library takes: diffusers prefers the index, transformers
/// the single file, and both the file without a variant. An index without its shards goes last.
/// Move-only. Nothing of it changes once it is open: any number of threads may use it.
class WeightStore {
 public:
  /// \param variant to be preferred, e.g. "fp16"; "": the plain weights or, where there are none, the only variant
  /// \throws Error model: no weights (listing what is there), several variants and no plain weights, a damaged file, an
  /// index that names a missing file or a path outside the folder, a tensor that is not in the shard that the index
  /// says.
  static WeightStore open(const std::filesystem::path& folder, const std::string& variant = "");
  /// All tensors of one file, whatever its name and format. \throws Error model as open_tensor_file()
  static WeightStore open_file(const std::filesystem::path& file);

  /// \return the folder, or the file, that was opened.
  const std::filesystem::path& path() const { return path_; }
  /// \return the variant that was taken, "" for the plain weights.
  const std::string& variant() const { return variant_; }
  /// \return what was chosen where there was a choice, each a sentence for the log.
  const std::vector<std::string>& notes() const { return notes_; }

  /// \return what is known of the tensor, nothing if there is none of this name. It lives as long as the store.
  const TensorInfo* info(std::string_view name) const;
  /// \return the tensor, of any alignment, or nothing. The view lives as long as the store.
  /// \throws Error model if it is none that nostos can use: see TensorFile::tensor()
  std::optional<ConstView> find(std::string_view name) const;
  /// \return the tensor's bytes as they are stored, or nothing. They live as long as the store.
  /// \throws Error model if the file has been cut short
  std::optional<std::span<const std::byte>> find_bytes(std::string_view name) const;
  /// \return how a weight that is there is stored. \throws Error model as LayerFormats::of()
  WeightFormat format(std::string_view name) const;
  /// \return the factors of a weight that is there, none where it has none. \throws Error model as LayerFormats
  std::vector<float> scales(std::string_view name) const;
  /// \return what a file says of itself under this name, see TensorFile::metadata(); null if none does.
  const std::string* metadata(const std::string& name) const;
  /// \return the file that holds the tensor, or path() if none does: for messages.
  std::string where(std::string_view name) const;
  /// \return the names of all tensors, sorted, but for those that say how others are stored.
  std::vector<std::string> weights() const;
  /// \return every tensor, sorted by name.
  std::vector<std::pair<std::string, TensorInfo>> list() const;
  /// \return the files that the tensors are in.
  std::span<const std::unique_ptr<const TensorFile>> files() const { return files_; }

  /// Asks the kernel to read the tensor's pages ahead. Does nothing for an unknown name.
  void will_need(std::string_view name) const;
  /// Drops the tensor's pages from this process once it has been copied elsewhere, so that a mapped checkpoint does not
  /// count twice; a later access reads them again. Does nothing for an unknown name.
  void release(std::string_view name) const;

 private:
  WeightStore() = default;
  void add_file(const std::filesystem::path& file);
  void add_shards(const std::filesystem::path& index);
  size_t file_of(std::string_view name) const;

  std::filesystem::path path_;
  std::string variant_;
  std::vector<std::string> notes_;
  std::vector<std::unique_ptr<const TensorFile>> files_;
  std::vector<LayerFormats> formats_;                   // of each file
  std::map<std::string, size_t, std::less<>> entries_;  // the file of each tensor
};

/// Opens each place once, and keeps it open for all that read it. One thread at a time.
class WeightStores {
 public:
  /// \return all tensors of a file, or the weights in a folder. \throws Error model as WeightStore
  /// \param variant of a folder's weights
  std::shared_ptr<const WeightStore> open(const std::filesystem::path& place, const std::string& variant = "");

 private:
  std::map<std::pair<std::filesystem::path, std::string>, std::shared_ptr<const WeightStore>> opened_;
};

}  // namespace nostos
