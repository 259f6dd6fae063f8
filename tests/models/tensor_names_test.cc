// Tests that the weight walks name exactly the tensors of the full-size classes, with their shapes.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "models/autoencoder_kl/weights.h"
#include "models/flux2/weights.h"
#include "models/qwen3/weights.h"
#include "models/synthetic_source.h"
#include "models/zimage/weights.h"

namespace nostos::test {
namespace {

const std::filesystem::path kRoot(NOSTOS_SOURCE_DIR);

/// \return the list that diffusers and transformers gave on the meta device.
std::map<std::string, std::string> wanted(const std::string& part) {
  std::ifstream file(kRoot / "tests/data/tensor_names" / (part + ".json"));
  std::map<std::string, std::string> names;
  nlohmann::json json = nlohmann::json::parse(file);
  for (const auto& [name, extents] : (json.contains("tensors") ? json["tensors"] : json).items()) {
    Shape shape;
    for (const int64_t extent : extents) shape.push_back(extent);
    names[name] = to_string(shape);
  }
  return names;
}

/// \return what a walk asks for.
template <class Walk>
std::map<std::string, std::string> walked(const Walk& walk) {
  Context ctx({}, 1);
  const auto source = std::make_shared<ListingSource>();
  WeightBuilder builder(ctx, source, DType::bf16);
  walk(builder);
  std::map<std::string, std::string> names;
  for (const auto& [name, shape] : source->shapes()) names[name] = to_string(shape);
  return names;
}

TEST(TensorNames, Transformer) {
  const zimage::Config config =
      zimage::load_config(JsonConfig::load(kRoot / "models/z-image-turbo/transformer/config.json"));
  EXPECT_EQ(walked([&](WeightBuilder& builder) { zimage::build_weights(config, builder); }), wanted("transformer"));
}

TEST(TensorNames, TextEncoder) {
  const qwen3::Config config =
      qwen3::load_config(JsonConfig::load(kRoot / "models/z-image-turbo/text_encoder/config.json"));
  EXPECT_EQ(walked([&](WeightBuilder& builder) { qwen3::build_weights(config, builder); }), wanted("text_encoder"));
}

TEST(TensorNames, Autoencoder) {
  const autoencoder_kl::Config config =
      autoencoder_kl::load_config(JsonConfig::load(kRoot / "models/z-image-turbo/vae/config.json"));
  EXPECT_EQ(walked([&](WeightBuilder& builder) { autoencoder_kl::build_weights(config, builder); }), wanted("vae"));
}

class KleinTensorNames : public testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path config(const char* part) const { return kRoot / "models" / GetParam() / part / "config.json"; }
  std::map<std::string, std::string> wanted(const char* part) const {
    return test::wanted(std::string(GetParam()) + "/" + part);
  }
};

INSTANTIATE_TEST_SUITE_P(Models, KleinTensorNames, testing::Values("flux2-klein-4b", "flux2-klein-9b"),
                         [](const auto& info) { return info.param + std::string(info.param).size() - 2; });

// Its fused matrices are loaded in parts, each of which says the shape of the whole.
TEST_P(KleinTensorNames, Transformer) {
  const flux2::Config of = flux2::load_config(JsonConfig::load(config("transformer")));
  EXPECT_EQ(walked([&](WeightBuilder& builder) { flux2::build_weights(of, builder); }), wanted("transformer"));
}

TEST_P(KleinTensorNames, TextEncoder) {
  qwen3::Config of = qwen3::load_config(JsonConfig::load(config("text_encoder")));
  of.feature_layers = {9, 18, 27};
  EXPECT_EQ(walked([&](WeightBuilder& builder) { qwen3::build_weights(of, builder); }), wanted("text_encoder"));
}

TEST_P(KleinTensorNames, Autoencoder) {
  const autoencoder_kl::Config of = autoencoder_kl::load_flux2_config(JsonConfig::load(config("vae")));
  std::map<std::string, std::string> needed = wanted("vae");
  EXPECT_EQ(needed.erase("bn.num_batches_tracked"), 1u) << "a checkpoint may have it, and it says nothing";
  EXPECT_EQ(walked([&](WeightBuilder& builder) { autoencoder_kl::build_weights(of, builder); }), needed);
}

}  // namespace
}  // namespace nostos::test
