// Lists the layouts of Qwen3 text encoders. Source of the second: llama.cpp (gguf-py, tensor_mapping.py).
#include "models/qwen3/file_layouts.h"

#include <array>

namespace nostos::qwen3 {
namespace {

std::vector<TensorRows> find_llama_cpp(const std::string& name) {
  static constexpr std::array kRules{
      NameRule{"embed_tokens.*", "token_embd.*"},
      NameRule{"norm.*", "output_norm.*"},
      NameRule{"lm_head.*", "output.*"},
      NameRule{"layers.#.input_layernorm.*", "blk.#.attn_norm.*"},
      NameRule{"layers.#.self_attn.q_proj.*", "blk.#.attn_q.*"},
      NameRule{"layers.#.self_attn.k_proj.*", "blk.#.attn_k.*"},
      NameRule{"layers.#.self_attn.v_proj.*", "blk.#.attn_v.*"},
      NameRule{"layers.#.self_attn.o_proj.*", "blk.#.attn_output.*"},
      NameRule{"layers.#.self_attn.q_norm.*", "blk.#.attn_q_norm.*"},
      NameRule{"layers.#.self_attn.k_norm.*", "blk.#.attn_k_norm.*"},
      NameRule{"layers.#.post_attention_layernorm.*", "blk.#.ffn_norm.*"},
      NameRule{"layers.#.mlp.gate_proj.*", "blk.#.ffn_gate.*"},
      NameRule{"layers.#.mlp.up_proj.*", "blk.#.ffn_up.*"},
      NameRule{"layers.#.mlp.down_proj.*", "blk.#.ffn_down.*"},
  };
  return find_by_rules(kRules, name);
}

constexpr std::array<std::string_view, 1> kLeftovers{"lm_head.weight"};
constexpr std::array<std::string_view, 2> kLlamaCppLeftovers{"output.weight", "rope_freqs.weight"};

constexpr std::array kLayouts{
    CheckpointLayout{"transformers", "layers.0.self_attn.q_proj.weight", find_as_named, kLeftovers},
    CheckpointLayout{"llama.cpp", "blk.0.attn_q.weight", find_llama_cpp, kLlamaCppLeftovers},
};

// With "text_encoders." first: all-in-one files of ComfyUI, then those of stable-diffusion.cpp. Qwen3-VL's prefixes are
// left out on purpose: it is another model of the same shape.
constexpr std::array<std::string_view, 12> kPrefixes{
    "",
    "model.",
    "text_encoders.qwen3_4b.transformer.model.",
    "text_encoders.qwen3_4b.transformer.",
    "text_encoders.qwen3_4b.model.",
    "text_encoders.qwen3_8b.transformer.model.",
    "text_encoders.qwen3_8b.transformer.",
    "text_encoders.qwen3_8b.model.",
    "text_encoders.llm.model.",
    "text_encoders.llm.",
    "text_encoder.model.",
    "text_encoder.",
};

}  // namespace

std::span<const CheckpointLayout> file_layouts() { return kLayouts; }

std::span<const std::string_view> file_prefixes() { return kPrefixes; }

}  // namespace nostos::qwen3
