// Owns where a model's parts come from: folders in the diffusers layout, single files whatever their format and names,
// or random numbers. A family calls it to read the configs of its parts, and to check and load their weights.
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

#include "device/context.h"
#include "families/family.h"
#include "families/model_files.h"
#include "io/json_config.h"
#include "io/weight_store.h"
#include "models/checkpoint_layout.h"
#include "models/synthetic_source.h"
#include "models/tensor_shapes.h"
#include "models/weight_builder.h"

namespace nostos {

/// A part's folder inside the model's folder, and the class that model_index.json must name for the part.
using PartClass = std::pair<std::string_view, std::string_view>;

/// Compares the classes that model_index.json names with the classes of `parts`. A part that only one of the two names
/// does not matter, nor does a file without an index.
/// \throws Error model
void check_part_classes(const ModelFiles& files, std::span<const PartClass> parts);

/// \return text_in_file(), which must be JSON. \throws Error model
std::optional<JsonConfig> config_in_file(const FamilyOptions& options, const std::string& name);
/// \return what the file of the transformer, or of the whole model, says of itself under this name, e.g.
/// "config.scheduler"; nothing without such a file, or where it says nothing. Files that `nostos convert` writes do.
/// \throws Error model as open_tensor_file()
std::optional<std::string> text_in_file(const FamilyOptions& options, const std::string& name);

/// Puts the steps, the guidance and the size of the folder's generation_config.json, or of a file's text
/// `config.generation`, in the place of the defaults. Without either the defaults stay. The default size is kept within
/// max_side.
/// \throws Error model naming file and field
void read_generation_config(const FamilyOptions& options, ModelLimits& limits);

/// How far a walk over a part's weights goes.
enum class WeightWalk { check, load };

/// A kind of part: how its files name their tensors, and what its config is where none is written down.
struct PartKind {
  std::string_view name;                            ///< as messages write it, e.g. "Z-Image transformer"
  std::string_view folder;                          ///< inside the model's folder, e.g. "text_encoder"
  std::string_view flag;                            ///< which names a place of its own, e.g. "--text-encoder"
  std::filesystem::path ModelFiles::*place;         ///< likewise
  std::span<const CheckpointLayout> (*layouts)();   ///< of files
  std::span<const std::string_view> (*prefixes)();  ///< likewise
  /// \return the classes that a config of a file with these tensors may name
  std::span<const std::string_view> (*classes)(const TensorShapes& shapes);
  /// \return the config that the shapes of a file's tensors tell
  JsonConfig (*guess_config)(const TensorShapes& shapes, const WeightStore& store);
  bool takes_adapters = true;
  std::span<const std::string_view> kept_products{};  ///< FamilyOptions::kept_products where nobody says others
};

/// \return all kinds of parts of all families.
std::vector<const PartKind*> part_kinds();

/// \return whether the file has a part of this kind. \throws Error model as open_tensor_file()
bool holds_part(const FamilyOptions& options, const std::filesystem::path& file, const PartKind& kind);

/// Where a part's config was found, in the order in which places are looked at.
enum class ConfigPlace {
  in_file,         ///< the text `config.FOLDER` of the file, e.g. `config.vae`
  beside_weights,  ///< config.json of the folder with the weights; beside a file only one that names the part's class
  model_folder,    ///< config.json of the part that the model's folder has
  tensors,         ///< nowhere: it is what the tensors' shapes tell
};
struct FoundConfig {
  JsonConfig json;
  ConfigPlace place;
};

/// Where the config and the weights of one part are.
class PartFiles {
 public:
  /// \throws Error model saying what was looked for and where
  PartFiles(const FamilyOptions& options, const PartKind& kind);

  /// \return the file, or the folder.
  const std::filesystem::path& path() const { return path_; }
  /// \return the dtype of the matrix products.
  DType dtype() const { return dtype_; }
  /// \return the config inside of the file, else beside the weights, else that of the model's folder, else what the
  /// tensors' shapes tell. \throws Error model
  JsonConfig config() const { return find_config().json; }
  /// \return config(), and which of these it is. \throws Error model
  FoundConfig find_config() const;
  /// \return all tensors of the part's file or folder, which may hold other parts, too; null where a synthetic model's
  /// folder has a config alone.
  const std::shared_ptr<const WeightStore>& store() const { return store_; }
  /// \return how the tensors are named, without a layout where a folder's are the diffusers layout's or none at all.
  const CheckpointNames& names() const { return names_; }
  /// \return a builder that checks or loads the weights of the part.
  WeightBuilder weights(Context& ctx, WeightWalk walk, const WeightPlacement& placement = {}) const;
  /// \return what reads the part's tensors, one thread at a time. \param shapes of them, which outlive it
  ReadWeight weight_reader(const std::map<std::string, Shape>& shapes) const;
  const PartKind& kind() const { return *kind_; }
  /// \return whether the part has weights of the variant that the options name.
  bool has_variant() const { return has_variant_; }

 private:
  std::shared_ptr<WeightSource> weight_source(Context& ctx, WeightWalk walk) const;
  void take_as_stored(const FamilyOptions& options);
  std::optional<JsonConfig> config_beside_file(const TensorShapes& shapes) const;

  std::filesystem::path path_;
  std::filesystem::path model_folder_;  // or empty
  bool is_file_ = false;
  bool is_synthetic_;
  std::optional<WeightFormat> synthetic_format_;
  SyntheticKind synthetic_kind_;
  DType dtype_;
  BlockProducts products_;
  const PartKind* kind_;
  std::shared_ptr<const WeightStore> store_;  // or null
  bool has_variant_ = false;
  CheckpointNames names_;
};

/// \throws Error model unless one of `parts` has the variant of the options. Without the check a misspelt variant would
/// draw with plain weights.
void require_variant(const FamilyOptions& options, std::initializer_list<const PartFiles*> parts);

}  // namespace nostos
