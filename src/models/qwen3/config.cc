// Reads and checks text_encoder/config.json, and makes one from shapes.
#include "models/qwen3/config.h"

#include <array>
#include <string_view>

#include "base/error.h"
#include "base/log.h"

namespace nostos::qwen3 {

nn::AttentionShape Config::attention_shape() const {
  return {heads, kv_heads, head_dim, norm_eps, ops::RotaryPairs::half_split, true};
}

GatedShape Config::feed_forward_shape() const { return {hidden, ffn, !pads}; }

namespace {

/// \return the base of the rotary angles, as transformers 5 finds it: in `rope_scaling`, else in `rope_parameters`,
/// else at the top, where checkpoints that went through transformers 4 may keep a stale one. \throws Error model
double read_rope_theta(const JsonConfig& json) {
  constexpr double kDefaultTheta = 1e4;  // transformers'
  const auto theta_of = [](const JsonConfig& config, double otherwise) {
    return config.number_or("rope_theta", otherwise, 1, 1e12);
  };
  const double outer = theta_of(json, kDefaultTheta);
  for (const std::string field : {"rope_scaling", "rope_parameters"}) {
    const std::optional<JsonConfig> rope = json.object(field);
    if (!rope || rope->fields().empty()) continue;
    const std::string type_field = rope->has("rope_type") ? "rope_type" : "type";
    if (const std::string type = rope->string_or(type_field, "default"); type != "default")
      json.refuse(field + "." + type_field,
                  fmt::format("is \"{}\", must be \"default\": nostos rotates without scaling", type));
    for (const char* layers : {"full_attention", "sliding_attention"})
      if (rope->has(layers)) json.refuse(field + "." + layers, "is set: nostos rotates all layers alike");
    const double inner = theta_of(*rope, outer);
    if (json.has("rope_theta") && inner != outer) {
      log_warning("{}: field 'rope_theta' is {} and '{}.rope_theta' {}, which is taken, as transformers 5 does",
                  json.name(), outer, field, inner);
    }
    return inner;
  }
  return outer;
}

/// \throws Error model unless every layer attends to the whole prompt.
void require_full_attention(const JsonConfig& json, int64_t layers) {
  const std::string whole = ": nostos attends to the whole prompt";
  const bool has_window = json.boolean_or("use_sliding_window", false) && !json.is_null("sliding_window");
  // The first max_window_layers layers have no window.
  if (has_window && !json.has("layer_types") && json.integer_or("max_window_layers", 28, 0, 1 << 20) < layers)
    json.refuse("use_sliding_window", "is true" + whole);
  for (const std::string& type : json.strings_or("layer_types", {}))
    if (type != "full_attention") json.refuse("layer_types", fmt::format("has the entry \"{}\"{}", type, whole));
}

}  // namespace

Config load_config(const JsonConfig& json) {
  constexpr std::array<std::string_view, 2> kClasses{"Qwen3Model", "Qwen3ForCausalLM"};
  constexpr int64_t kMax = int64_t{1} << 22;
  json.check_class(kClasses);
  json.require_unquantised();
  if (const std::string type = json.string_or("model_type", "qwen3"); type != "qwen3")
    json.refuse("model_type", fmt::format("is \"{}\", must be \"qwen3\"", type));

  Config config;
  config.vocabulary = json.integer("vocab_size", 1, kMax);
  config.hidden = json.integer("hidden_size", 1, kMax);
  config.ffn = json.integer("intermediate_size", 1, kMax);
  config.layers = json.integer("num_hidden_layers", 2, 1000);
  config.feature_layers = {config.layers - 1};
  config.heads = json.integer("num_attention_heads", 1, 4096);
  // In transformers the field's absence means 32, null as many as there are heads.
  const int64_t kv_heads = json.is_null("num_key_value_heads") ? config.heads : 32;
  config.kv_heads = json.integer_or("num_key_value_heads", kv_heads, 1, 4096);
  config.head_dim = json.integer_or("head_dim", 128, 2, 4096);
  config.norm_eps = static_cast<float>(json.number_or("rms_norm_eps", 1e-6, 0, 1));
  config.rope_theta = read_rope_theta(json);

  if (config.heads % config.kv_heads != 0) {
    json.refuse("num_key_value_heads",
                fmt::format("is {}, which does not divide num_attention_heads {}", config.kv_heads, config.heads));
  }
  if (config.head_dim % 2 != 0)
    json.refuse("head_dim", fmt::format("is {}, rotary embedding wants an even width", config.head_dim));
  const std::string activation = json.string_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    json.refuse("hidden_act", "is not \"silu\", also called \"swish\"");
  if (json.boolean_or("attention_bias", false))
    json.refuse("attention_bias", "is true: Qwen3 projections have no bias");
  require_full_attention(json, config.layers);
  return config;
}

JsonConfig guess_config(const TensorShapes& shapes, const Constants& constants) {
  const std::string attention = "layers.0.self_attn.";
  const int64_t head_dim = shapes.extent(attention + "q_norm.weight", 0);
  const auto heads = [&](const char* projection) {
    return shapes.quotient("heads", shapes.extent(attention + projection + ".weight", 0), head_dim);
  };
  return JsonConfig::parse(
      fmt::format(R"({{"architectures": ["Qwen3Model"], "model_type": "qwen3", "vocab_size": {}, "hidden_size": {},
                       "intermediate_size": {}, "num_hidden_layers": {}, "num_attention_heads": {},
                       "num_key_value_heads": {}, "head_dim": {}, "rms_norm_eps": {}, "rope_theta": {}}})",
                  shapes.extent("embed_tokens.weight", 0), shapes.extent("embed_tokens.weight", 1),
                  shapes.extent("layers.0.mlp.gate_proj.weight", 0), shapes.count("layers.", ".input_layernorm.weight"),
                  heads("q_proj"), heads("k_proj"), head_dim, constants.norm_eps, constants.rope_theta),
      shapes.config_name());
}

}  // namespace nostos::qwen3
