// Owns which weights of a model an adapter may change, and under which names files speak of them. Names are looked up
// whole, never taken apart: whatever a file writes for '.' and '_' leads to the same entry.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/checkpoint_layout.h"
#include "tensor/shape.h"

namespace nostos {

/// The part whose keys files mark as a text encoder's.
inline constexpr std::string_view kTextEncoderPart = "text_encoder";

/// One network of a model.
struct AdapterPart {
  std::string name;  ///< "transformer" or kTextEncoderPart
  /// Every tensor by its name in the diffusers layout, as ListingSource::shapes() has them.
  std::map<std::string, Shape> shapes;
  std::span<const CheckpointLayout> layouts;  ///< how files name them; the diffusers layout may be missing
  std::set<std::string> tables{};             ///< tensors that rows are looked up in, which merging alone changes
};

/// Rows of a file's tensor that are rows of a target.
struct TargetRows {
  std::string target;  ///< in the diffusers layout
  int64_t row = 0;     ///< of the target: the first
  int64_t count = 0;
  int64_t from = 0;  ///< of the file's tensor: the first

  friend bool operator==(const TargetRows&, const TargetRows&) = default;
};

/// A tensor as some files name it.
struct FileTensor {
  size_t part = 0;
  std::string name;    ///< e.g. "layers.0.attention.qkv.weight"
  std::string layout;  ///< whose name it is, e.g. "native"
  bool is_diffusers = false;
  int64_t rows = 0, columns = 0;   ///< a vector is a matrix of one column
  std::vector<TargetRows> pieces;  ///< by `from`
};

/// What a file's name of a module leads to.
struct ModuleMatch {
  size_t name_length = 0;                  ///< characters of the name that matched; what stands before is a prefix
  std::vector<const FileTensor*> weights;  ///< of the module, the likeliest first; several where layouts disagree
  std::vector<const FileTensor*> biases;
  bool is_text_encoder = false;   ///< by its prefix
  bool is_missing_layer = false;  ///< nothing matches, but would with another number in the name

  bool found() const { return !weights.empty() || !biases.empty(); }
};

/// \return `name` with '_' for every '.': the form in which names are compared.
std::string canonical_name(std::string_view name);

/// The weights of one model.
class AdapterTargets {
 public:
  /// \param model as messages name it, e.g. "Z-Image-Turbo"
  AdapterTargets(std::string model, std::vector<AdapterPart> parts);
  AdapterTargets(AdapterTargets&&) = default;
  AdapterTargets& operator=(AdapterTargets&&) = default;

  const std::string& model() const { return model_; }
  const AdapterPart& part(size_t i) const { return parts_[i]; }
  const std::vector<AdapterPart>& parts() const { return parts_; }
  /// \return whether there is a part for a text encoder's keys.
  bool has_text_encoder() const;

  /// \param module canonical, with whatever stands before it in the file, e.g. "lora_unet_layers_0_attention_to_q".
  /// \return what it leads to; it lives as long as this.
  ModuleMatch find(std::string_view module) const;

 private:
  void add_layout(size_t part, const CheckpointLayout* layout);
  void add_fused_projections(size_t part);
  void add(FileTensor tensor);
  bool find_in_part(size_t part, std::string_view name, ModuleMatch& match) const;
  void search(std::string_view name, int depth, ModuleMatch& match) const;

  std::string model_;
  std::vector<AdapterPart> parts_;
  std::multimap<std::string, FileTensor, std::less<>> tensors_;  ///< by canonical name
  std::set<std::string, std::less<>> patterns_;                  ///< canonical names with '#' for numbers
};

}  // namespace nostos
