// Tests what a FLUX.2-klein model says of itself, what it asks of memory, and the folders that are refused.
#include "families/flux2_klein/model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "families/registry.h"
#include "io/test_files.h"

namespace nostos {
namespace {

using nlohmann::json;

const std::filesystem::path kTiny = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/klein_tiny";

/// A copy of the distilled model, to be spoilt.
class KleinFolder : public testing::Test {
 protected:
  void SetUp() override {
    const std::string test = testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_ = std::filesystem::path(testing::TempDir()) / ("nostos_" + test + "_" + std::to_string(getpid()));
    restore();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void restore() {
    std::filesystem::remove_all(folder_);
    std::filesystem::copy(kTiny / "distilled", folder_, std::filesystem::copy_options::recursive);
  }
  void change(const char* file, const std::function<void(json&)>& spoil) {
    json config = json::parse(slurp(folder_ / file));
    spoil(config);
    std::ofstream(folder_ / file) << config;
  }
  void expect_refused(const char* file, const std::function<void(json&)>& spoil,
                      std::initializer_list<std::string_view> parts) {
    restore();
    change(file, spoil);
    Context ctx({}, 1);
    expect_error([&] { open_family(ctx, {.files = folder_}); }, ErrorKind::model, parts);
  }

  std::filesystem::path folder_;
};

TEST_F(KleinFolder, SaysWhetherItIsDistilled) {
  Context ctx({}, 1);
  const ModelLimits distilled = open_family(ctx, {.files = folder_})->shape().limits;
  EXPECT_EQ(distilled.guidance, GuidanceForm::none);
  EXPECT_EQ(distilled.default_steps, 4);
  EXPECT_EQ(distilled.default_guidance_scale, 1);
  const ModelLimits base = open_family(ctx, {.files = kTiny / "base"})->shape().limits;
  EXPECT_EQ(base.guidance, GuidanceForm::from_negative);
  EXPECT_EQ(base.default_steps, 50);
  EXPECT_EQ(base.default_guidance_scale, 4);
  EXPECT_EQ(distilled.max_reference_images, 16);
  EXPECT_EQ(distilled.latent_channels, 16);
  EXPECT_EQ(distilled.pixels_per_latent, 4);
  EXPECT_EQ(base.latent_channels, 12);
  EXPECT_EQ(base.size_multiple, 8);
  change("model_index.json", [](json& c) { c["is_distilled"] = false; });
  EXPECT_EQ(read_family_shape(folder_).limits.guidance, GuidanceForm::from_negative);
  std::filesystem::remove(folder_ / "model_index.json");
  EXPECT_EQ(read_family_shape(folder_).limits.guidance, GuidanceForm::none) << "configs alone: the usual model";
}

TEST_F(KleinFolder, OtherPipelinesAreRefusedByName) {
  Context ctx({}, 1);
  for (const char* pipeline : {"Flux2KleinKVPipeline", "Flux2Pipeline"}) {
    const auto other = [&](json& c) { c["_class_name"] = pipeline; };
    expect_refused("model_index.json", other, {"model_index.json", "_class_name", pipeline, "Flux2KleinPipeline"});
    expect_error([&] { read_family_shape(folder_); }, ErrorKind::model, {pipeline, "Flux2KleinPipeline"});
  }
  restore();
  change("model_index.json", [](json& c) { c["_class_name"] = "Flux2KleinInpaintPipeline"; });
  EXPECT_NO_THROW(open_family(ctx, {.files = folder_})) << "it has the same parts";
}

TEST_F(KleinFolder, PartsOfOtherClassesAreRefused) {
  for (const auto& [part, wanted] : {std::pair{"transformer", "Flux2Transformer2DModel"},
                                     {"vae", "AutoencoderKLFlux2"},
                                     {"scheduler", "FlowMatchEulerDiscreteScheduler"}})
    expect_refused("model_index.json",
                   [&](json& c) {
                     c[part] = {"diffusers", "Another"};
                   },
                   {"model_index.json", part, "Another", wanted});
  expect_refused("vae/config.json", [](json& c) { c["_class_name"] = "AutoencoderKL"; }, {"vae", "AutoencoderKL"});
  expect_refused("scheduler/scheduler_config.json", [](json& c) { c["use_dynamic_shifting"] = false; },
                 {"scheduler_config.json", "use_dynamic_shifting"});
}

TEST_F(KleinFolder, PartsThatDoNotFitEachOtherAreRefused) {
  expect_refused("transformer/config.json", [](json& c) { c["joint_attention_dim"] = 25; },
                 {folder_.string(), "25 (joint_attention_dim)", "3 * 8 (hidden_size)"});
  expect_refused("text_encoder/config.json", [](json& c) { c["hidden_size"] = 16; },
                 {"24 (joint_attention_dim)", "3 * 16 (hidden_size)"});
  expect_refused("vae/config.json", [](json& c) { c["latent_channels"] = 8; },
                 {"16 channels (in_channels)", "8 * 2 * 2 (latent_channels, patch_size)"});
  expect_refused("vae/config.json", [](json& c) { c["patch_size"] = {4, 4}; }, {"16 channels", "4 * 4 * 4"});
  expect_refused("transformer/config.json", [](json& c) { c["in_channels"] = 64; }, {"64 channels", "4 * 2 * 2"});
  expect_refused("text_encoder/config.json", [](json& c) { c["num_hidden_layers"] = 27; },
                 {"text_encoder/config.json", "num_hidden_layers", "27", "layers 9, 18 and 27"});
  expect_refused("transformer/config.json", [](json& c) { c["num_layers"] = 3; }, {"transformer_blocks.2."});
}

TEST_F(KleinFolder, ATokenizerWithoutThePadIsRefused) {
  expect_refused("tokenizer/tokenizer.json",
                 [](json& c) {
                   for (json& token : c["added_tokens"])
                     if (token["content"] == "<|endoftext|>") token["content"] = "<|another|>";
                 },
                 {"tokenizer", "<|endoftext|>"});
}

TEST(Klein, AnEmbeddingHasTheRowsOfThePromptAndItsPads) {
  Context ctx({}, 1);
  const flux2_klein::Model model(ctx, {kTiny / "distilled"});
  EXPECT_EQ(model.embedding_shape({7, 512}), Shape({512, 48}));
  EXPECT_EQ(model.embedding_shape({48, 48}), Shape({48, 48}));
  EXPECT_EQ(read_family_shape(kTiny / "distilled").prompt_rows(7, 512), 512) << "its configs alone say so, too";
}

// The features last from the encoder's pass to the embedder's; the encoder's memory need not.
// Where an arena measures, nothing has an address: what is taken must not be told by one.
TEST(Klein, AnEmbeddingThatManyPassesReadIsMeasuredAsOften) {
  Context ctx({}, 1);
  const flux2_klein::Model model(ctx, {kTiny / "distilled"});
  const nn::SequenceParallel share(
      parallel::make_plan({.grid = {8, 8}, .heads = model.transformer_config().heads, .patch = 1}),
      model.transformer_config().head_dim);
  const std::vector<int64_t> rows{64};
  const std::vector<size_t> embeddings(8, 0);
  const DenoiserPlan plan{.share = share, .embedding_rows = rows, .embeddings = embeddings, .references = {}};
  Arena measured{Device{}};
  model.take_denoiser(measured, plan);
  Arena taken(Device{}, measured.peak_bytes());
  model.take_denoiser(taken, plan);
  EXPECT_EQ(taken.peak_bytes(), measured.peak_bytes());
}

TEST(Klein, PassesOverPromptsShareMemory) {
  Context ctx({}, 1);
  const flux2_klein::Model model(ctx, {kTiny / "distilled"});
  const std::vector<PromptLength> prompts{{40, 64}, {7, 48}};
  const std::vector<qwen3::PromptRows> rows{{40, 24}, {7, 41}};
  Arena encoder{Device{}}, features{Device{}}, both{Device{}};
  qwen3::Scratch::take(encoder, model.encoder_config(), rows, model.dtype());
  take(features, DType::f32, {64 + 48, model.transformer_config().text_width});
  const View embeddings(nullptr, DType::f32, {64 + 48, model.transformer_config().hidden()});
  const auto encoding = model.take_prompts(both, prompts, embeddings);
  const size_t kept = both.used_bytes();
  EXPECT_EQ(kept, features.peak_bytes());
  encoding->take_scratch(both);
  EXPECT_EQ(both.peak_bytes(), kept + encoder.peak_bytes());
}

}  // namespace
}  // namespace nostos
