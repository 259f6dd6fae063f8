// Reads and checks text_encoder/config.json.
#include "models/qwen3/config.h"

#include <array>
#include <string_view>

#include "base/error.h"
#include "io/json_config.h"

namespace nostos::qwen3 {

nn::AttentionShape Config::attention_shape() const {
  return {heads, kv_heads, head_dim, norm_eps, ops::RotaryPairs::half_split, true};
}

GatedShape Config::feed_forward_shape() const { return {hidden, ffn, true}; }

Config load_config(const std::filesystem::path& file) {
  constexpr std::array<std::string_view, 2> kClasses{"Qwen3Model", "Qwen3ForCausalLM"};
  constexpr int64_t kMax = int64_t{1} << 22;
  const JsonConfig json = JsonConfig::load(file);
  const auto bad = [&](std::string_view field, const std::string& what) {
    fail(ErrorKind::model, "{}: field '{}' {}", file.string(), field, what);
  };

  Config config;
  config.is_causal_lm = json.class_name(kClasses) == "Qwen3ForCausalLM";
  config.vocabulary = json.integer("vocab_size", 1, kMax);
  config.hidden = json.integer("hidden_size", 1, kMax);
  config.ffn = json.integer("intermediate_size", 1, kMax);
  config.layers = json.integer("num_hidden_layers", 2, 1000);
  config.heads = json.integer("num_attention_heads", 1, 4096);
  config.kv_heads = json.integer_or("num_key_value_heads", config.heads, 1, 4096);
  config.head_dim = json.integer_or("head_dim", 128, 2, 4096);
  config.norm_eps = static_cast<float>(json.number_or("rms_norm_eps", 1e-6, 0, 1));
  const std::optional<JsonConfig> rope = json.object("rope_parameters");
  config.rope_theta = json.number_or("rope_theta", rope ? rope->number_or("rope_theta", 1e6, 1, 1e12) : 1e6, 1, 1e12);

  if (config.heads % config.kv_heads != 0) {
    bad("num_key_value_heads",
        fmt::format("is {}, which does not divide num_attention_heads {}", config.kv_heads, config.heads));
  }
  if (config.head_dim % 2 != 0)
    bad("head_dim", fmt::format("is {}, rotary embedding wants an even width", config.head_dim));
  if (json.string_or("hidden_act", "silu") != "silu") bad("hidden_act", "is not \"silu\"");
  if (json.boolean_or("attention_bias", false)) bad("attention_bias", "is true: Qwen3 projections have no bias");
  if (json.boolean_or("use_sliding_window", false))
    bad("use_sliding_window", "is true: nostos attends to the whole prompt");
  if (json.has("rope_scaling")) bad("rope_scaling", "is set: nostos rotates without scaling");
  if (rope && rope->string_or("rope_type", "default") != "default")
    bad("rope_parameters.rope_type", "is not \"default\"");
  return config;
}

}  // namespace nostos::qwen3
