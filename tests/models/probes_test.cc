// Tests every sub-step of the embedded model against diffusers, so that a mismatch names the first wrong one.
#include <gtest/gtest.h>

#include <array>

#include "models/golden.h"
#include "models/probe_comparison.h"
#include "models/weight_builder.h"
#include "models/zimage_model.h"
#include "ops/patches.h"

namespace nostos::test {
namespace {

SafetensorsFile probes(const char* part) {
  return SafetensorsFile(embedded_model().cases.parent_path() / (std::string("probes_") + part + ".safetensors"));
}

TEST(Probes, TextEncoder) {
  const SafetensorsFile file = probes("text_encoder");
  Context ctx;
  ZImageModel parts(ctx, embedded_model().model, false, DType::f32);
  const std::vector<int64_t> wide = integers(file.tensor("input_ids"));
  const std::vector<int32_t> ids(wide.begin(), wide.end());
  Tensor features({}, DType::f32, {static_cast<int64_t>(ids.size()), parts.encoder_config().hidden});
  ProbeComparison comparison(file);
  Arena arena({}, size_t{64} << 20);
  const std::array prompts{qwen3::PromptRows{.tokens = std::ssize(ids)}};
  const auto scratch = qwen3::Scratch::take(arena, parts.encoder_config(), prompts, DType::f32);
  parts.encoder(ctx).take_ids(ctx, std::array{std::span<const int32_t>(ids)}, scratch);
  parts.encoder(ctx).encode(ctx, prompts, scratch, features, [&](std::string_view name, ConstView rows) {
    comparison.compare("text_encoder." + std::string(name), rows);
  });
  EXPECT_EQ(comparison.compared(), 1 + parts.encoder_config().used_layers());
}

TEST(Probes, Transformer) {
  const SafetensorsFile file = probes("transformer");
  Context ctx;
  ZImageModel parts(ctx, embedded_model().model, false, DType::f32);
  const zimage::Transformer& model = parts.transformer(ctx);
  const zimage::Config& config = model.config();
  const ConstView latents = file.tensor("latents"), features = file.tensor("prompt_embeds");
  const nn::SequenceParallel picture(
      parallel::make_plan({.grid = {latents.shape()[2] / config.patch, latents.shape()[3] / config.patch},
                           .heads = config.heads,
                           .pad_multiple = zimage::kTokenMultiple}),
      config.head_dim());
  const std::vector<int64_t> image_rows = integers(file.tensor("image_rows")),
                             caption_rows = integers(file.tensor("caption_rows"));
  std::vector<int64_t> all_rows = image_rows;
  for (const int64_t row : caption_rows) all_rows.push_back(picture.plan().padded_tokens() + row);

  ProbeComparison comparison(file);
  const nn::Probe probe = [&](std::string_view name, ConstView value) {
    const bool is_layer = name.starts_with("layers."),
               is_caption = name.starts_with("cap") || name.starts_with("context");
    const std::vector<int64_t>& rows = is_layer ? all_rows : is_caption ? caption_rows : image_rows;
    if (name == "t_embedder")
      comparison.compare("transformer.t_embedder", value);
    else
      comparison.compare_rows("transformer." + std::string(name), value, rows);
  };
  Tensor caption({}, DType::f32, {zimage::padded_tokens(features.shape()[0]), config.hidden});
  Arena arena({}, size_t{64} << 20);
  const auto conditioning = zimage::Conditioning::take(arena, config, picture, caption.shape()[0]);
  const auto modulation = zimage::Modulation::take(arena, config, 1, DType::f32);
  const auto image_scratch = zimage::take_image_scratch(arena, config, picture, 1, DType::f32);
  const auto scratch = zimage::Scratch::take(arena, config, picture, std::array{&conditioning}, DType::f32);
  Tensor image({}, DType::f32, {picture.image().rows(), config.hidden});
  Tensor tokens({}, DType::f32, {picture.image_tokens(), config.patch_width()}),
      velocity({}, DType::f32, tokens.shape());
  ops::patchify(ctx, latents.reshape({latents.shape()[1], latents.shape()[2], latents.shape()[3]}), config.patch,
                tokens);
  const std::array lengths{features.shape()[0]};
  const auto refiner = zimage::RefineScratch::take(arena, config, lengths, DType::f32);
  model.refine(ctx, lengths, features, refiner, caption, probe);
  model.fill_positions(ctx, picture, conditioning);
  model.take_caption(ctx, picture, caption, conditioning);
  comparison.compare_rows("transformer.rope_cos", conditioning.rope.cos, all_rows);
  comparison.compare_rows("transformer.rope_sin", conditioning.rope.sin, all_rows);
  model.modulate(ctx, {file.tensor("t").data<float>(), 1}, modulation, probe);
  zimage::Transformer::select_step(ctx, modulation, 0);
  const zimage::ImageInput input{tokens, conditioning.rope.rows(0, picture.image().rows())};
  model.refine_images(ctx, picture, {std::array{input}, image}, modulation, image_scratch, probe);
  model.forward(ctx, picture, {std::array{zimage::Pass{image, &conditioning, velocity}}}, modulation, scratch, probe);
  Tensor output({}, DType::f32, {latents.shape()[1], latents.shape()[2], latents.shape()[3]});
  ops::unpatchify(ctx, velocity, config.patch, output);
  comparison.compare("transformer.output", output);
  // Everything but each block's last state: six sub-steps in the first noise refiner and the first layer.
  const int64_t blocks = 2 * config.refiner_layers + config.layers;
  EXPECT_EQ(comparison.compared(), blocks + 2 * 6 + 7);
}

TEST(Probes, Autoencoder) {
  const SafetensorsFile file = probes("vae");
  Context ctx;
  ZImageModel parts(ctx, embedded_model().model, false, DType::f32);
  const autoencoder_kl::Config& config = parts.vae_config();
  WeightBuilder builder(ctx,
                        std::make_shared<StoreSource>(WeightStores().open(embedded_model().model / "vae"),
                                                      CheckpointNames{}, StoreSource::Mode::load),
                        DType::f32);
  const autoencoder_kl::Autoencoder vae(config, autoencoder_kl::build_weights(config, builder), DType::f32);
  ProbeComparison comparison(file);
  const nn::Probe probe = [&](std::string_view name, ConstView value) {
    const Tensor first = to_channels_first(value);
    comparison.compare("vae." + std::string(name), first);
  };

  const ConstView input = file.tensor("vae.decoder.input");  // already unscaled
  const int64_t height = input.shape()[1], width = input.shape()[2];
  Tensor latents({}, DType::f32, input.shape());
  for (int64_t i = 0; i < input.elements(); ++i) {
    latents.data<float>()[i] = (input.data<float>()[i] - config.shift_factor) * config.scaling_factor;
  }
  Arena arena({}, size_t{64} << 20);
  Tensor image({}, DType::f32, {height * config.scale(), width * config.scale(), 3});
  const nn::RowShards shards(height);
  vae.decode(ctx, shards, latents, vae.take_decode_scratch(arena, shards, height, width), image, probe);
  EXPECT_EQ(comparison.compared(),
            8 + static_cast<int>(config.block_channels.size()) + static_cast<int>(config.layers_per_block));

  arena.rewind(0);
  const Tensor picture = to_channels_last(file.tensor("vae.encoder.input"));
  Tensor moments({}, DType::f32, {height, width, 2 * config.latent_channels});
  vae.encode(ctx, shards, picture, vae.take_encode_scratch(arena, shards, width), moments, probe);
  comparison.compare("vae.moments", to_channels_first(moments));
  const int decoder = 8 + static_cast<int>(config.block_channels.size()) + static_cast<int>(config.layers_per_block);
  EXPECT_EQ(comparison.compared(),
            decoder + 7 + static_cast<int>(config.block_channels.size()) + static_cast<int>(config.layers_per_block));
}

}  // namespace
}  // namespace nostos::test
