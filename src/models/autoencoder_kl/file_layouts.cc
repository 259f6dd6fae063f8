// Lists the layouts of FLUX-style VAEs. Sources: github.com/black-forest-labs/flux and flux2 (autoencoder.py), whose
// names are those of CompVis/latent-diffusion; diffusers' AutoencoderKL, also before version 0.18.
#include "models/autoencoder_kl/file_layouts.h"

#include <array>
#include <utility>

namespace nostos::autoencoder_kl {
namespace {

std::vector<TensorRows> find_old(const std::string& name) {
  static constexpr std::array kRules{
      NameRule{"*.attentions.0.to_q.*", "*.attentions.0.query.*"},
      NameRule{"*.attentions.0.to_k.*", "*.attentions.0.key.*"},
      NameRule{"*.attentions.0.to_v.*", "*.attentions.0.value.*"},
      NameRule{"*.attentions.0.to_out.0.*", "*.attentions.0.proj_attn.*"},
  };
  return find_by_rules(kRules, name);
}

/// Which module a file's quantisation convolutions belong to.
enum class Quantisation { of_the_whole, of_the_sides };

// The decoder's levels are counted as the encoder's are: in the order in which they run, backwards. A name does not say
// how many there are.
template <size_t kLastLevel, Quantisation kQuantisation>
std::vector<TensorRows> find_latent_diffusion(const std::string& name) {
  static constexpr std::array kSides{
      NameRule{"quant_conv.*", "encoder.quant_conv.*"},
      NameRule{"post_quant_conv.*", "decoder.post_quant_conv.*"},
  };
  static constexpr std::array kRules{
      NameRule{"encoder.down_blocks.#.resnets.#.conv_shortcut.*", "encoder.down.#.block.#.nin_shortcut.*"},
      NameRule{"encoder.down_blocks.#.resnets.#.*", "encoder.down.#.block.#.*"},
      NameRule{"encoder.down_blocks.#.downsamplers.0.*", "encoder.down.#.downsample.*"},
      NameRule{"decoder.up_blocks.#.resnets.#.conv_shortcut.*", "decoder.up.~.block.#.nin_shortcut.*"},
      NameRule{"decoder.up_blocks.#.resnets.#.*", "decoder.up.~.block.#.*"},
      NameRule{"decoder.up_blocks.#.upsamplers.0.*", "decoder.up.~.upsample.*"},
      NameRule{"*.mid_block.resnets.0.*", "*.mid.block_1.*"},
      NameRule{"*.mid_block.resnets.1.*", "*.mid.block_2.*"},
      NameRule{"*.mid_block.attentions.0.group_norm.*", "*.mid.attn_1.norm.*"},
      NameRule{"*.mid_block.attentions.0.to_q.*", "*.mid.attn_1.q.*"},
      NameRule{"*.mid_block.attentions.0.to_k.*", "*.mid.attn_1.k.*"},
      NameRule{"*.mid_block.attentions.0.to_v.*", "*.mid.attn_1.v.*"},
      NameRule{"*.mid_block.attentions.0.to_out.0.*", "*.mid.attn_1.proj_out.*"},
      NameRule{"*.conv_norm_out.*", "*.norm_out.*"},
  };
  if (kQuantisation == Quantisation::of_the_sides && name.find("quant_conv.") != std::string::npos)
    return find_by_rules(kSides, name);
  return find_by_rules(kRules, name, kLastLevel);
}

/// By the outermost level: a file of more levels has the marks of fewer, too.
constexpr std::array<std::string_view, 8> kLevelMarks{
    "decoder.up.0.block.0.norm1.weight", "decoder.up.1.block.0.norm1.weight", "decoder.up.2.block.0.norm1.weight",
    "decoder.up.3.block.0.norm1.weight", "decoder.up.4.block.0.norm1.weight", "decoder.up.5.block.0.norm1.weight",
    "decoder.up.6.block.0.norm1.weight", "decoder.up.7.block.0.norm1.weight",
};

template <size_t kLastLevel>
constexpr std::array<CheckpointLayout, 2> latent_diffusion_of() {
  return {
      CheckpointLayout{"FLUX.2's own",
                       kLevelMarks[kLastLevel],
                       find_latent_diffusion<kLastLevel, Quantisation::of_the_sides>,
                       {},
                       "decoder.post_quant_conv.weight"},
      CheckpointLayout{"latent diffusion",
                       kLevelMarks[kLastLevel],
                       find_latent_diffusion<kLastLevel, Quantisation::of_the_whole>,
                       {}},
  };
}

/// \return all layouts, those of latent diffusion from the most levels to the fewest.
template <size_t... kLevels>
constexpr auto all_layouts(std::index_sequence<kLevels...>) {
  constexpr size_t kCount = sizeof...(kLevels);
  std::array<CheckpointLayout, 2 + 2 * kCount> layouts{
      CheckpointLayout{"old diffusers", "decoder.mid_block.attentions.0.query.weight", find_old, {}},
      CheckpointLayout{"diffusers", "decoder.mid_block.resnets.0.conv1.weight", find_as_named, {}},
  };
  size_t next = 2;
  for (const auto& pair : {latent_diffusion_of<kCount - 1 - kLevels>()...})
    for (const CheckpointLayout& layout : pair) layouts[next++] = layout;
  return layouts;
}

constexpr auto kLayouts = all_layouts(std::make_index_sequence<kLevelMarks.size()>());

constexpr std::array<std::string_view, 3> kPrefixes{"", "first_stage_model.", "vae."};

}  // namespace

std::span<const CheckpointLayout> file_layouts() { return kLayouts; }

std::span<const std::string_view> file_prefixes() { return kPrefixes; }

}  // namespace nostos::autoencoder_kl
