// Tests that configs which nostos cannot draw with are refused with their file and field.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/autoencoder_kl/config.h"
#include "models/qwen3/config.h"
#include "models/zimage/config.h"

namespace nostos::test {
namespace {

using nlohmann::json;

struct BadConfig {
  const char* part;
  const char* field;  ///< must stand in the message
  std::function<void(json&)> spoil;
};

json read(const char* part) {
  std::ifstream file(std::filesystem::path(NOSTOS_SOURCE_DIR) / "models/z-image-turbo" / part / "config.json");
  return json::parse(file);
}

/// \return a file that holds `config`, of a name that no process beside this one has.
std::filesystem::path written(const std::string& part, const json& config) {
  const std::filesystem::path path =
      std::filesystem::path(testing::TempDir()) / (part + "_" + std::to_string(getpid()) + "_config.json");
  std::ofstream(path) << config.dump();
  return path;
}

void load(const std::string& part, const json& config) {
  const std::filesystem::path path = written(part, config);
  if (part == "transformer")
    zimage::load_config(path);
  else if (part == "text_encoder")
    qwen3::load_config(path);
  else
    autoencoder_kl::load_config(path);
}

TEST(Config, FullSizeLoads) {
  for (const char* part : {"transformer", "text_encoder", "vae"}) EXPECT_NO_THROW(load(part, read(part))) << part;
  const zimage::Config config;
  EXPECT_EQ(config.ffn(), 10240);
  EXPECT_EQ(config.modulation_width(), 256);
}

/// \return the text encoder's config after `change`.
qwen3::Config encoder_config(const std::function<void(json&)>& change) {
  json config = read("text_encoder");
  for (const char* field : {"rope_theta", "rope_scaling", "rope_parameters"}) config.erase(field);
  change(config);
  return qwen3::load_config(written("encoder", config));
}

TEST(Config, RopeThetaIsFoundWhereTransformers5FindsIt) {
  struct Case {
    const char* fields;  ///< laid over the config
    double theta;        ///< what Qwen3Config(**config).rope_parameters["rope_theta"] is in transformers 5.24
  };
  for (const Case& entry : std::vector<Case>{
           {R"({})", 1e4},
           {R"({"rope_theta": 5e5})", 5e5},
           {R"({"rope_theta": 10000, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}})", 1e6},
           {R"({"rope_parameters": {"rope_theta": 1e6}})", 1e6},
           {R"({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}})", 5e5},
           {R"({"rope_theta": 5e5, "rope_parameters": null, "rope_scaling": null})", 5e5},
           {R"({"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}})", 5e5},
           {R"({"rope_theta": 5e5, "rope_scaling": {"type": "default"}})", 5e5},
           {R"({"rope_theta": 5e5, "rope_scaling": {}})", 5e5},
           {R"({"rope_theta": 5e5, "rope_scaling": {"rope_type": "default", "rope_theta": 7}})", 7},
           {R"({"rope_theta": 5e5, "rope_scaling": {"rope_theta": 7}, "rope_parameters": {"rope_theta": 8}})", 7},
           {R"({"rope_theta": 5e5, "rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 8}})",
            5e5}}) {
    EXPECT_EQ(encoder_config([&](json& c) { c.update(json::parse(entry.fields)); }).rope_theta, entry.theta)
        << entry.fields;
  }
}

TEST(Config, FieldsThatAreAbsentOrNullMeanWhatTransformersTakes) {
  const auto kv_heads = [](const char* fields) {
    return encoder_config([&](json& c) {
             c.erase("num_key_value_heads");
             c.update(json::parse(fields));
           })
        .kv_heads;
  };
  EXPECT_EQ(kv_heads(R"({"num_attention_heads": 64})"), 32);
  EXPECT_EQ(kv_heads(R"({"num_attention_heads": 64, "num_key_value_heads": null})"), 64);
  EXPECT_EQ(encoder_config([](json& c) { c.erase("head_dim"); }).head_dim, 128);
  EXPECT_NO_THROW(encoder_config([](json& c) { c.erase("architectures"); }));
  EXPECT_NO_THROW(encoder_config([](json& c) { c["hidden_act"] = "swish"; }));
  EXPECT_NO_THROW(encoder_config([](json& c) { c["quantization_config"] = nullptr; }));
  EXPECT_NO_THROW(encoder_config([](json& c) {
    c.erase("layer_types");
    c.update(json::parse(R"({"use_sliding_window": true, "sliding_window": null})"));
  }));
  EXPECT_NO_THROW(encoder_config([](json& c) {
    c.erase("layer_types");
    c.update(json::parse(R"({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 36})"));
  })) << "all layers come before the first with a window";
  for (const char* part : {"transformer", "vae"}) {
    json config = read(part);
    config.erase("_class_name");
    EXPECT_NO_THROW(load(part, config)) << "the class is what model_index.json says";
  }
}

TEST(Config, BadOnesNameFileAndField) {
  const std::vector<BadConfig> bad = {
      {"transformer", "_class_name", [](json& c) { c["_class_name"] = "UNet2DModel"; }},
      {"transformer", "dim", [](json& c) { c["dim"] = "wide"; }},
      {"transformer", "n_heads", [](json& c) { c["n_heads"] = 7; }},
      {"transformer", "n_heads", [](json& c) { c["n_heads"] = 0; }},
      {"transformer", "axes_dims",
       [](json& c) {
         c["axes_dims"] = {32, 48, 50};
       }},
      {"transformer", "axes_dims",
       [](json& c) {
         c["axes_dims"] = {31, 49, 48};
       }},
      {"transformer", "axes_dims",
       [](json& c) {
         c["axes_dims"] = {64, 64};
       }},
      {"transformer", "all_patch_size",
       [](json& c) {
         c["all_patch_size"] = {2, 4};
       }},
      {"transformer", "siglip_feat_dim", [](json& c) { c["siglip_feat_dim"] = 1152; }},
      {"text_encoder", "architectures", [](json& c) { c["architectures"] = {"LlamaForCausalLM"}; }},
      {"text_encoder", "model_type",
       [](json& c) {
         c.erase("architectures");
         c["model_type"] = "llama";
       }},
      {"text_encoder", "hidden_size", [](json& c) { c.erase("hidden_size"); }},
      {"text_encoder", "num_key_value_heads", [](json& c) { c["num_key_value_heads"] = 5; }},
      {"text_encoder", "attention_bias", [](json& c) { c["attention_bias"] = true; }},
      {"text_encoder", "rope_scaling",
       [](json& c) {
         c["rope_scaling"] = {{"type", "yarn"}};
       }},
      {"text_encoder", "rope_scaling.type",
       [](json& c) {
         c["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
       }},
      {"text_encoder", "rope_parameters.rope_type",
       [](json& c) {
         c["rope_parameters"] = {{"rope_type", "yarn"}};
       }},
      {"text_encoder", "rope_parameters.rope_theta",
       [](json& c) {
         c["rope_parameters"] = {{"rope_theta", "big"}};
       }},
      {"text_encoder", "rope_parameters.full_attention",
       [](json& c) {
         c["rope_parameters"] = {{"full_attention", {{"rope_theta", 1e6}}}};
       }},
      {"text_encoder", "num_key_value_heads",
       [](json& c) {
         c["num_attention_heads"] = 16;
         c.erase("num_key_value_heads");  // means 32
       }},
      {"text_encoder", "use_sliding_window",
       [](json& c) {
         c["use_sliding_window"] = true;
         c["sliding_window"] = 4096;
         c["max_window_layers"] = 28;
         c.erase("layer_types");
       }},
      {"text_encoder", "layer_types",
       [](json& c) {
         c["layer_types"] = {"full_attention", "sliding_attention"};
       }},
      {"text_encoder", "quantization_config",
       [](json& c) {
         c["quantization_config"] = {{"quant_method", "fp8"}};
       }},
      {"text_encoder", "vocab_size", [](json& c) { c["vocab_size"] = uint64_t{18446744073709551615u}; }},
      {"text_encoder", "hidden_size", [](json& c) { c["hidden_size"] = int64_t{1} << 40; }},
      {"text_encoder", "rope_theta", [](json& c) { c["rope_theta"] = 1e300; }},
      {"transformer", "quantization_config",
       [](json& c) {
         c["quantization_config"] = {{"quant_method", "gguf"}};
       }},
      {"transformer", "dim", [](json& c) { c["dim"] = int64_t{9223372036854775807}; }},
      {"vae", "_class_name", [](json& c) { c["_class_name"] = "AutoencoderTiny"; }},
      {"vae", "act_fn", [](json& c) { c["act_fn"] = "gelu"; }},
      {"vae", "norm_num_groups", [](json& c) { c["norm_num_groups"] = 48; }},
      {"vae", "block_out_channels", [](json& c) { c["block_out_channels"] = json::array(); }},
      {"vae", "down_block_types", [](json& c) { c["down_block_types"][1] = "AttnDownEncoderBlock2D"; }},
      {"vae", "latents_mean", [](json& c) { c["latents_mean"] = {0.5}; }},
      {"vae", "out_channels", [](json& c) { c["out_channels"] = 4; }},
  };
  for (const BadConfig& entry : bad) {
    json config = read(entry.part);
    entry.spoil(config);
    try {
      load(entry.part, config);
      ADD_FAILURE() << entry.part << ": a bad " << entry.field << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      const std::string message = error.what();
      EXPECT_NE(message.find(entry.field), std::string::npos) << message;
      EXPECT_NE(message.find("_config.json"), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace nostos::test
