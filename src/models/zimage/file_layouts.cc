// Lists the layouts of Z-Image transformers. Sources: the single files' names as ComfyUI (comfy/ldm/lumina) and
// stable-diffusion.cpp (name_conversion.cpp) read and write them.
#include "models/zimage/file_layouts.h"

#include <array>

namespace nostos::zimage {
namespace {

constexpr NameRule kEmbedder{"all_x_embedder.#-1.*", "x_embedder.*"};
constexpr NameRule kFinalLayer{"all_final_layer.#-1.*", "final_layer.*"};
constexpr NameRule kQNorm{"*.attention.norm_q.*", "*.attention.q_norm.*"};
constexpr NameRule kKNorm{"*.attention.norm_k.*", "*.attention.k_norm.*"};
constexpr NameRule kOut{"*.attention.to_out.0.*", "*.attention.out.*"};

std::vector<TensorRows> find_native(const std::string& name) {
  static constexpr std::array kRules{
      kEmbedder,
      kFinalLayer,
      kQNorm,
      kKNorm,
      kOut,
      NameRule{"*.attention.to_q.*", "*.attention.qkv.*", 0, 3},
      NameRule{"*.attention.to_k.*", "*.attention.qkv.*", 1, 3},
      NameRule{"*.attention.to_v.*", "*.attention.qkv.*", 2, 3},
  };
  return find_by_rules(kRules, name);
}

// Where the converter finds three projections, it counts them behind the name that they have as one.
std::vector<TensorRows> find_counted(const std::string& name) {
  static constexpr std::array kRules{
      kEmbedder,
      kFinalLayer,
      kQNorm,
      kKNorm,
      kOut,
      NameRule{"*.attention.to_q.*", "*.attention.qkv.*"},
      NameRule{"*.attention.to_k.*", "*.attention.qkv.*.1"},
      NameRule{"*.attention.to_v.*", "*.attention.qkv.*.2"},
  };
  return find_by_rules(kRules, name);
}

// Of Lumina 2, whose code runs Z-Image in some programs.
constexpr std::array<std::string_view, 1> kLeftovers{"norm_final.weight"};

constexpr std::array kLayouts{
    CheckpointLayout{"diffusers", "layers.0.attention.to_q.weight", find_as_named, {}},
    CheckpointLayout{"stable-diffusion.cpp", "layers.0.attention.qkv.weight.1", find_counted, kLeftovers},
    CheckpointLayout{"Z-Image's own", "layers.0.attention.qkv.weight", find_native, kLeftovers},
};

constexpr std::array kControlLayouts{
    CheckpointLayout{"diffusers", "control_layers.0.attention.to_q.weight", find_as_named, {}},
    CheckpointLayout{"ComfyUI", "control_layers.0.attention.qkv.weight", find_native, {}},
};

}  // namespace

std::span<const CheckpointLayout> file_layouts() { return kLayouts; }

std::span<const CheckpointLayout> control_file_layouts() { return kControlLayouts; }

std::span<const std::string_view> file_prefixes() { return kTransformerPrefixes; }

}  // namespace nostos::zimage
