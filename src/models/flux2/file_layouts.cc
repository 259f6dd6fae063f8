// Lists the layouts of FLUX.2 transformers. Source: github.com/black-forest-labs/flux2, and the single files' names as
// ComfyUI (comfy/ldm/flux) reads and writes them.
#include "models/flux2/file_layouts.h"

#include <array>

namespace nostos::flux2 {
namespace {

constexpr std::array kRules{
    NameRule{"x_embedder.*", "img_in.*"},
    NameRule{"context_embedder.*", "txt_in.*"},
    NameRule{"time_guidance_embed.timestep_embedder.linear_1.*", "time_in.in_layer.*"},
    NameRule{"time_guidance_embed.timestep_embedder.linear_2.*", "time_in.out_layer.*"},
    NameRule{"time_guidance_embed.guidance_embedder.linear_1.*", "guidance_in.in_layer.*"},
    NameRule{"time_guidance_embed.guidance_embedder.linear_2.*", "guidance_in.out_layer.*"},
    NameRule{"double_stream_modulation_img.linear.*", "double_stream_modulation_img.lin.*"},
    NameRule{"double_stream_modulation_txt.linear.*", "double_stream_modulation_txt.lin.*"},
    NameRule{"single_stream_modulation.linear.*", "single_stream_modulation.lin.*"},
    NameRule{"transformer_blocks.#.attn.to_q.*", "double_blocks.#.img_attn.qkv.*", 0, 3},
    NameRule{"transformer_blocks.#.attn.to_k.*", "double_blocks.#.img_attn.qkv.*", 1, 3},
    NameRule{"transformer_blocks.#.attn.to_v.*", "double_blocks.#.img_attn.qkv.*", 2, 3},
    NameRule{"transformer_blocks.#.attn.to_out.0.*", "double_blocks.#.img_attn.proj.*"},
    NameRule{"transformer_blocks.#.attn.norm_q.*", "double_blocks.#.img_attn.norm.query_norm.*"},
    NameRule{"transformer_blocks.#.attn.norm_k.*", "double_blocks.#.img_attn.norm.key_norm.*"},
    NameRule{"transformer_blocks.#.attn.add_q_proj.*", "double_blocks.#.txt_attn.qkv.*", 0, 3},
    NameRule{"transformer_blocks.#.attn.add_k_proj.*", "double_blocks.#.txt_attn.qkv.*", 1, 3},
    NameRule{"transformer_blocks.#.attn.add_v_proj.*", "double_blocks.#.txt_attn.qkv.*", 2, 3},
    NameRule{"transformer_blocks.#.attn.to_add_out.*", "double_blocks.#.txt_attn.proj.*"},
    NameRule{"transformer_blocks.#.attn.norm_added_q.*", "double_blocks.#.txt_attn.norm.query_norm.*"},
    NameRule{"transformer_blocks.#.attn.norm_added_k.*", "double_blocks.#.txt_attn.norm.key_norm.*"},
    NameRule{"transformer_blocks.#.ff.linear_in.*", "double_blocks.#.img_mlp.0.*"},
    NameRule{"transformer_blocks.#.ff.linear_out.*", "double_blocks.#.img_mlp.2.*"},
    NameRule{"transformer_blocks.#.ff_context.linear_in.*", "double_blocks.#.txt_mlp.0.*"},
    NameRule{"transformer_blocks.#.ff_context.linear_out.*", "double_blocks.#.txt_mlp.2.*"},
    NameRule{"single_transformer_blocks.#.attn.to_qkv_mlp_proj.*", "single_blocks.#.linear1.*"},
    NameRule{"single_transformer_blocks.#.attn.to_out.*", "single_blocks.#.linear2.*"},
    NameRule{"single_transformer_blocks.#.attn.norm_q.*", "single_blocks.#.norm.query_norm.*"},
    NameRule{"single_transformer_blocks.#.attn.norm_k.*", "single_blocks.#.norm.key_norm.*"},
    // (shift, scale) in these files, (scale, shift) in diffusers'.
    NameRule{"norm_out.linear.*", "final_layer.adaLN_modulation.1.*", 1, 2},
    NameRule{"norm_out.linear.*", "final_layer.adaLN_modulation.1.*", 0, 2},
    NameRule{"proj_out.*", "final_layer.linear.*"},
};

std::vector<TensorRows> find_comfy(const std::string& name) { return find_by_rules(kRules, name); }

// The published files call the weight of a head norm its scale.
std::vector<TensorRows> find_native(const std::string& name) {
  constexpr std::string_view kWeight = ".weight";
  std::vector<TensorRows> rows = find_by_rules(kRules, name);
  std::string& first = rows.front().name;
  if (first.ends_with("_norm.weight")) first.replace(first.size() - kWeight.size(), kWeight.size(), ".scale");
  return rows;
}

constexpr std::array kLayouts{
    CheckpointLayout{"diffusers", "double_stream_modulation_img.linear.weight", find_as_named, {}},
    CheckpointLayout{"Black Forest Labs'",
                     "double_blocks.0.img_attn.norm.query_norm.scale",
                     find_native,
                     {},
                     "double_stream_modulation_img.lin.weight"},
    CheckpointLayout{"ComfyUI",
                     "double_blocks.0.img_attn.norm.query_norm.weight",
                     find_comfy,
                     {},
                     "double_stream_modulation_img.lin.weight"},
};

}  // namespace

std::span<const CheckpointLayout> file_layouts() { return kLayouts; }

std::span<const std::string_view> file_prefixes() { return kTransformerPrefixes; }

}  // namespace nostos::flux2
