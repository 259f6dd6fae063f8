// Tests that configs which nostos cannot draw with are refused with their file and field.
#include <gtest/gtest.h>

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

void load(const std::string& part, const json& config) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / (part + "_config.json");
  std::ofstream(path) << config.dump();
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

TEST(Config, BadOnesNameFileAndField) {
  const std::vector<BadConfig> bad = {
      {"transformer", "_class_name", [](json& c) { c.erase("_class_name"); }},
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
      {"text_encoder", "architectures", [](json& c) { c.erase("architectures"); }},
      {"text_encoder", "hidden_size", [](json& c) { c.erase("hidden_size"); }},
      {"text_encoder", "num_key_value_heads", [](json& c) { c["num_key_value_heads"] = 5; }},
      {"text_encoder", "attention_bias", [](json& c) { c["attention_bias"] = true; }},
      {"text_encoder", "rope_scaling",
       [](json& c) {
         c["rope_scaling"] = {{"type", "yarn"}};
       }},
      {"vae", "_class_name", [](json& c) { c["_class_name"] = "AutoencoderTiny"; }},
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
