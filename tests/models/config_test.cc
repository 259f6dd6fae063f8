// Tests that configs which nostos cannot draw with are refused with their file and field.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/autoencoder_kl/config.h"
#include "models/flux2/config.h"
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

json read(const char* part, const char* model = "z-image-turbo") {
  std::ifstream file(std::filesystem::path(NOSTOS_SOURCE_DIR) / "models" / model / part / "config.json");
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
    zimage::load_config(JsonConfig::load(path));
  else if (part == "text_encoder")
    qwen3::load_config(JsonConfig::load(path));
  else
    autoencoder_kl::load_config(JsonConfig::load(path));
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
  return qwen3::load_config(JsonConfig::load(written("encoder", config)));
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

/// Expects a model's config to be refused once it is spoilt, by its file and field.
void expect_refused(const BadConfig& entry, const char* model,
                    const std::function<void(const std::string& part, const json& config)>& load_part) {
  json config = read(entry.part, model);
  entry.spoil(config);
  try {
    load_part(entry.part, config);
    ADD_FAILURE() << entry.part << ": a bad " << entry.field << " was accepted: " << config[entry.field];
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    const std::string message = error.what();
    EXPECT_NE(message.find(entry.field), std::string::npos) << message;
    EXPECT_NE(message.find("_config.json"), std::string::npos) << message;
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
  for (const BadConfig& entry : bad) expect_refused(entry, "z-image-turbo", load);
}

// A text encoder is the same in both families.
void load_flux2(const std::string& part, const json& config) {
  const std::filesystem::path path = written("flux2_" + part, config);
  if (part == "transformer")
    flux2::load_config(JsonConfig::load(path));
  else
    autoencoder_kl::load_flux2_config(JsonConfig::load(path));
}

TEST(Config, OfFlux2SaysWhatItsWeightsAre) {
  const json transformer = read("transformer", "flux2-klein-9b");
  const flux2::Config config = flux2::load_config(JsonConfig::load(written("flux2_9b", transformer)));
  EXPECT_EQ(config.hidden(), 4096);
  EXPECT_EQ(config.ffn(), 12288);
  EXPECT_EQ(config.text_width, 12288);
  EXPECT_EQ(config.double_layers, 8);
  EXPECT_EQ(config.single_layers, 24);
  EXPECT_EQ(config.norm_eps, 1e-6f);
  const flux2::Config usual =
      flux2::load_config(JsonConfig::load(written("flux2_usual", {{"guidance_embeds", false}})));
  EXPECT_EQ(usual.hidden(), 48 * 128);
  EXPECT_EQ(usual.text_width, 15360);
  EXPECT_EQ(usual.double_layers, 8);
  EXPECT_EQ(usual.single_layers, 48);
  EXPECT_EQ(usual.in_channels, 128);
  EXPECT_EQ(usual.rope_theta, 2000);
  EXPECT_EQ(flux2::load_config(JsonConfig::load(written("flux2_int", {{"guidance_embeds", false}, {"mlp_ratio", 1.7}})))
                .ffn(),
            10444)
      << "int(6144 * 1.7)";
  json same = transformer;
  same["out_channels"] = 128;
  EXPECT_NO_THROW(load_flux2("transformer", same));
  const autoencoder_kl::Config vae =
      autoencoder_kl::load_flux2_config(JsonConfig::load(written("flux2_vae", json::object())));
  EXPECT_EQ(vae.latent_channels, 32);
  EXPECT_EQ(vae.packed_channels(), 128);
  EXPECT_EQ(vae.patch, 2);
  EXPECT_EQ(vae.scale(), 8);
  EXPECT_EQ(vae.batch_norm_eps, 1e-4f);
  EXPECT_TRUE(vae.quant_conv && vae.post_quant_conv && vae.mid_attention);
  EXPECT_EQ(vae.channels_of_decoder(), vae.block_channels);
}

TEST(Config, BadTransformersOfFlux2NameFileAndField) {
  const auto set = [](const char* field, const json& value) {
    return BadConfig{"transformer", field, [=](json& c) { c[field] = value; }};
  };
  for (const char* field : {"in_channels", "num_attention_heads", "attention_head_dim", "num_layers",
                            "num_single_layers", "joint_attention_dim", "timestep_guidance_channels"})
    for (const json& value : {json(0), json(-1), json("many"), json(1.5), json(int64_t{1} << 40)})
      expect_refused(set(field, value), "flux2-klein-4b", load_flux2);
  for (const BadConfig& entry : {
           set("_class_name", "ZImageTransformer2DModel"),
           set("quantization_config", {{"quant_method", "fp8"}}),
           set("mlp_ratio", 0),
           set("mlp_ratio", -3),
           set("mlp_ratio", "3"),
           set("eps", -1e-6),
           set("eps", 2),
           set("rope_theta", 0),
           set("rope_theta", 1e300),
           set("patch_size", 2),
           set("out_channels", 64),
           set("guidance_embeds", true),
           set("guidance_embeds", "no"),
           set("timestep_guidance_channels", 255),
           set("axes_dims_rope", {32, 32, 64}),
           set("axes_dims_rope", {31, 33, 32, 32}),
           set("axes_dims_rope", {32, 32, 32, 16}),
           set("axes_dims_rope", {0, 64, 32, 32}),
           set("axes_dims_rope", 32),
           set("axes_dims_rope", json::array()),
           BadConfig{"transformer", "mlp_ratio",
                     [](json& c) {
                       c["num_attention_heads"] = 1;  // 0.128 channels
                       c["mlp_ratio"] = 1e-3;
                     }},
           BadConfig{"transformer", "guidance_embeds", [](json& c) { c.erase("guidance_embeds"); }},
           BadConfig{"transformer", "axes_dims_rope", [](json& c) { c["attention_head_dim"] = 64; }},
       })
    expect_refused(entry, "flux2-klein-4b", load_flux2);
}

TEST(Config, BadAutoencodersOfFlux2NameFileAndField) {
  const auto set = [](const char* field, const json& value) {
    return BadConfig{"vae", field, [=](json& c) { c[field] = value; }};
  };
  for (const char* field : {"in_channels", "out_channels", "latent_channels", "layers_per_block", "norm_num_groups"})
    for (const json& value : {json(0), json("many"), json(1.5)})
      expect_refused(set(field, value), "flux2-klein-4b", load_flux2);
  for (const char* field : {"mid_block_add_attention", "use_quant_conv", "use_post_quant_conv"})
    expect_refused(set(field, 1), "flux2-klein-4b", load_flux2);
  for (const BadConfig& entry : {
           set("_class_name", "AutoencoderKL"),
           set("quantization_config", {{"quant_method", "fp8"}}),
           set("in_channels", 4),
           set("out_channels", 4),
           set("block_out_channels", json::array()),
           set("block_out_channels", {32, 32, 32, 32, 32, 32, 32, 32, 32}),
           set("block_out_channels", 128),
           set("norm_num_groups", 48),
           set("decoder_block_out_channels", {128, 256, 512}),
           set("decoder_block_out_channels", {128, 256, 512, 0}),
           set("decoder_block_out_channels", "none"),
           set("patch_size", 2),
           set("patch_size", {2}),
           set("patch_size", {2, 3}),
           set("patch_size", {1, 1}),
           set("patch_size", {2, 2, 2}),
           set("patch_size", json::array()),
           set("batch_norm_eps", -1),
           set("batch_norm_eps", "small"),
           set("act_fn", "gelu"),
           set("latents_mean", {0.5}),
           set("down_block_types", {"DownEncoderBlock2D"}),
           set("up_block_types", {"UpDecoderBlock2D"}),
           BadConfig{"vae", "norm_num_groups",
                     [](json& c) {
                       c["decoder_block_out_channels"] = {96, 80, 32, 32};
                     }},
           BadConfig{"vae", "down_block_types", [](json& c) { c["down_block_types"][1] = "AttnDownEncoderBlock2D"; }},
           BadConfig{"vae", "up_block_types", [](json& c) { c["up_block_types"][2] = "AttnUpDecoderBlock2D"; }},
       })
    expect_refused(entry, "flux2-klein-4b", load_flux2);
}

}  // namespace
}  // namespace nostos::test
