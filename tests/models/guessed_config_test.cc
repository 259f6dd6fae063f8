// Tests that shapes alone give back the published configs, and that what they cannot say is refused.
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "io/json_config.h"
#include "models/autoencoder_kl/weights.h"
#include "models/flux2/weights.h"
#include "models/qwen3/weights.h"
#include "models/synthetic_source.h"
#include "models/zimage/weights.h"

namespace nostos::test {
namespace {

using Shapes = std::map<std::string, Shape>;

JsonConfig published(const std::string& model, const char* part) {
  return JsonConfig::load(std::filesystem::path(NOSTOS_SOURCE_DIR) / "models" / model / part / "config.json");
}

/// \return the shapes that a walk asks for.
template <class Walk>
Shapes walked(const Walk& walk) {
  Context ctx({}, 1);
  const auto source = std::make_shared<ListingSource>();
  WeightBuilder builder(ctx, source, DType::bf16);
  walk(builder);
  return source->shapes();
}

Shapes shapes_of(const zimage::Config& config) {
  return walked([&](WeightBuilder& builder) { zimage::build_weights(config, builder); });
}

Shapes shapes_of(const flux2::Config& config) {
  return walked([&](WeightBuilder& builder) { flux2::build_weights(config, builder); });
}

Shapes shapes_of(const qwen3::Config& config) {
  return walked([&](WeightBuilder& builder) { qwen3::build_weights(config, builder); });
}

Shapes shapes_of(const autoencoder_kl::Config& config) {
  return walked([&](WeightBuilder& builder) { autoencoder_kl::build_weights(config, builder); });
}

TensorShapes file_of(Shapes shapes) {
  return {"all.safetensors", [shapes = std::move(shapes)](const std::string& name) {
            const auto found = shapes.find(name);
            return found == shapes.end() ? std::nullopt : std::optional(found->second);
          }};
}

void expect_refused(const std::function<void()>& guess, const std::vector<const char*>& words) {
  try {
    guess();
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with("all.safetensors")) << message;
    for (const char* word : words) EXPECT_NE(message.find(word), std::string::npos) << message;
  }
}

TEST(GuessedConfig, OfZImage) {
  const zimage::Config config = zimage::load_config(published("z-image-turbo", "transformer"));
  Shapes shapes = shapes_of(config);
  const JsonConfig guessed = zimage::guess_config(file_of(shapes));
  EXPECT_TRUE(zimage::load_config(guessed) == config) << guessed.dump();
  zimage::Config small = config;
  small.hidden = 512;
  small.heads = 4;
  small.layers = 3;
  small.refiner_layers = 1;
  small.in_channels = 5;
  small.caption_width = 24;
  EXPECT_TRUE(zimage::load_config(zimage::guess_config(file_of(shapes_of(small)))) == small);
  zimage::Config narrow = config;
  narrow.heads = 40;
  narrow.axes_dims = {32, 32, 32};
  expect_refused([&] { zimage::guess_config(file_of(shapes_of(narrow))); }, {"96", "128", "config.json"});
  shapes["siglip_embedder.0.weight"] = {1152};
  expect_refused([&] { zimage::load_config(zimage::guess_config(file_of(shapes))); }, {"siglip_feat_dim"});
  expect_refused([] { zimage::guess_config(file_of({})); }, {"all_x_embedder.2-1.weight", "config.json"});
}

class GuessedKleinConfig : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Models, GuessedKleinConfig, testing::Values("flux2-klein-4b", "flux2-klein-9b"),
                         [](const auto& info) { return info.param + std::string(info.param).size() - 2; });

TEST_P(GuessedKleinConfig, IsThePublishedOne) {
  const flux2::Config transformer = flux2::load_config(published(GetParam(), "transformer"));
  const JsonConfig guessed = flux2::guess_config(file_of(shapes_of(transformer)));
  EXPECT_TRUE(flux2::load_config(guessed) == transformer) << guessed.dump();
  const qwen3::Config encoder = qwen3::load_config(published(GetParam(), "text_encoder"));
  EXPECT_TRUE(qwen3::load_config(qwen3::guess_config(file_of(shapes_of(encoder)))) == encoder);
  const autoencoder_kl::Config vae = autoencoder_kl::load_flux2_config(published(GetParam(), "vae"));
  EXPECT_TRUE(autoencoder_kl::load_flux2_config(autoencoder_kl::guess_config(file_of(shapes_of(vae)))) == vae);
}

TEST(GuessedConfig, OfFlux2RefusesWhatItCannotMean) {
  const flux2::Config config = flux2::load_config(published("flux2-klein-4b", "transformer"));
  const auto refused = [](const Shapes& shapes, const std::vector<const char*>& words) {
    expect_refused([&] { flux2::load_config(flux2::guess_config(file_of(shapes))); }, words);
  };
  Shapes guided = shapes_of(config);
  guided["time_guidance_embed.guidance_embedder.linear_1.weight"] = {3072, 256};
  refused(guided, {"guidance_embeds", "klein"});
  flux2::Config other = config;
  other.head_dim = 64;
  refused(shapes_of(other), {"64", "128", "config.json"});
  other = config;
  other.mlp_ratio = 1.7;
  refused(shapes_of(other), {"5222", "3072", "config.json"});
  Shapes headless = shapes_of(config);
  headless["x_embedder.weight"] = {3000, 128};
  refused(headless, {"3000", "128"});
  headless["x_embedder.weight"] = {3072};
  refused(headless, {"x_embedder.weight", "[3072]"});
}

TEST(GuessedConfig, OfQwen3) {
  const qwen3::Config config = qwen3::load_config(published("z-image-turbo", "text_encoder"));
  EXPECT_TRUE(qwen3::load_config(qwen3::guess_config(file_of(shapes_of(config)))) == config);
  qwen3::Config other = config;
  other.heads = 6;
  other.kv_heads = 2;
  other.head_dim = 48;
  other.layers = 5;
  other.feature_layers = {4};
  other.rope_theta = 5e6;
  other.norm_eps = 1e-5f;
  const JsonConfig guessed = qwen3::guess_config(file_of(shapes_of(other)), {.rope_theta = 5e6, .norm_eps = 1e-5});
  EXPECT_TRUE(qwen3::load_config(guessed) == other) << guessed.dump();
  Shapes torn = shapes_of(config);
  torn["layers.0.self_attn.k_proj.weight"] = {1000, 2560};
  expect_refused([&] { qwen3::guess_config(file_of(torn)); }, {"heads", "1000", "128"});
}

TEST(GuessedConfig, OfAutoencoders) {
  using namespace autoencoder_kl;
  const Config flux1 = autoencoder_kl::load_config(published("z-image-turbo", "vae"));
  EXPECT_TRUE(autoencoder_kl::load_config(guess_config(file_of(shapes_of(flux1)))) == flux1);
  Config flux2 = load_flux2_config(published("flux2-klein-4b", "vae"));
  flux2.decoder_channels = {96, 192, 384, 384};
  EXPECT_TRUE(load_flux2_config(guess_config(file_of(shapes_of(flux2)))) == flux2) << "FLUX.2-small-decoder's";
  expect_refused([&] { autoencoder_kl::load_config(guess_config(file_of(shapes_of(flux2)))); }, {"AutoencoderKLFlux2"});
  Config sdxl = flux1;
  sdxl.latent_channels = 4;
  expect_refused([&] { guess_config(file_of(shapes_of(sdxl))); }, {"4 latent", "16", "config.json"});
  Config narrow = flux1;
  narrow.block_channels = {32, 64, 128, 128};
  expect_refused([&] { guess_config(file_of(shapes_of(narrow))); }, {"32, 64, 128, 128"});
  Config deep = flux1;
  deep.layers_per_block = 3;
  expect_refused([&] { guess_config(file_of(shapes_of(deep))); }, {"3 layers"});
}

}  // namespace
}  // namespace nostos::test
