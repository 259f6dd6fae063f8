// Tests every sub-step of the tiny FLUX.2-klein models against diffusers, so that a mismatch names the first wrong one.
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <numeric>

#include "models/golden.h"
#include "models/klein_model.h"
#include "models/probe_comparison.h"
#include "ops/patches.h"

namespace nostos::test {
namespace {

constexpr int64_t kPadded = 512;  ///< text rows

/// \return the name that the reference has for the engine's of the transformer.
std::string reference_name(std::string name) {
  for (const auto& [ours, theirs] : {std::pair{"single_transformer_blocks.", "single."},
                                     {"transformer_blocks.", "double."},
                                     {"embedder.text", "context_embedder"},
                                     {"embedder.image", "x_embedder"},
                                     {"time_guidance_embed", "time_embedding"}})
    if (name.starts_with(ours)) name = theirs + name.substr(std::string_view(ours).size());
  return "transformer." + name;
}

/// \return the rows of a state [channels, height, width], a token each.
Tensor tokens_of(Context& ctx, ConstView planes) {
  Tensor tokens({}, DType::f32, {planes.shape()[1] * planes.shape()[2], planes.shape()[0]});
  ops::patchify(ctx, planes, 1, tokens);
  return tokens;
}

class KleinProbes : public testing::TestWithParam<const char*> {
 protected:
  SafetensorsFile file(const std::string& name) const {
    return SafetensorsFile(folder_ / "expected" / (name + ".safetensors"));
  }

  /// \return the state of the probes' transformer call, taken through it, and compares on the way.
  Tensor forward(const SafetensorsFile& of, ProbeComparison& comparison);

  std::filesystem::path folder_ = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/klein_tiny" / GetParam();
  Context ctx_;
  KleinModel model_{ctx_, folder_};
};

INSTANTIATE_TEST_SUITE_P(Models, KleinProbes, testing::Values("distilled", "base"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(KleinProbes, TextEncoder) {
  const SafetensorsFile of = file("probes_text_encoder");
  const std::vector<int64_t> wide = integers(of.tensor("input_ids")), rows = integers(of.tensor("text_rows"));
  std::vector<int32_t> ids(wide.begin(), wide.end());
  const std::array prompts{qwen3::PromptRows{std::ssize(ids), kPadded - std::ssize(ids)}};
  ids.resize(kPadded, model_.pad_token());
  Tensor features({}, DType::f32, {kPadded, model_.transformer_config().text_width});
  ProbeComparison comparison(of);
  Arena arena({}, size_t{64} << 20);
  const auto scratch = qwen3::Scratch::take(arena, model_.encoder_config(), prompts, DType::f32);
  model_.encoder().take_ids(ctx_, std::array{std::span<const int32_t>(ids)}, scratch);
  model_.encoder().encode(ctx_, prompts, scratch, features, [&](std::string_view name, ConstView value) {
    comparison.compare_rows("text_encoder." + std::string(name), value, rows);
  });
  comparison.compare_rows("prompt_embeds", features, rows);
  EXPECT_EQ(comparison.compared(), 1 + model_.encoder_config().used_layers() + 1);
}

Tensor KleinProbes::forward(const SafetensorsFile& of, ProbeComparison& comparison) {
  const flux2::Transformer& transformer = model_.transformer();
  const flux2::Config& config = transformer.config();
  const ConstView latents = of.tensor("latents"), features = of.tensor("prompt_embeds");
  const SafetensorsFile references = file("references");
  const ConstView reference = references.tensor("b_latents");
  const parallel::Grid grid{latents.shape()[1], latents.shape()[2]},
      reference_grid{reference.shape()[1], reference.shape()[2]};
  const nn::SequenceParallel picture(parallel::make_plan({.grid = grid, .heads = config.heads, .patch = 1}),
                                     config.head_dim);

  const std::vector<int64_t> text_rows = integers(of.tensor("text_rows")),
                             image_rows = integers(of.tensor("image_rows"));
  std::vector<int64_t> stream_rows = image_rows, all_rows = text_rows;
  for (const int64_t row : integers(of.tensor("reference_rows"))) stream_rows.push_back(grid.tokens() + row);
  for (const int64_t row : stream_rows) all_rows.push_back(kPadded + row);

  Arena arena({}, size_t{64} << 20);
  const flux2::Layout layout = flux2::Layout::take(arena, config, picture, kPadded, reference_grid.tokens());
  transformer.fill_positions(ctx_, picture, std::array{reference_grid}, layout);
  comparison.compare_rows("transformer.rope_cos", layout.rope.cos, all_rows);
  comparison.compare_rows("transformer.rope_sin", layout.rope.sin, all_rows);

  const nn::Probe probe = [&](std::string_view name, ConstView value) {
    const bool is_text = name.ends_with(".text"), is_single = name.starts_with("single"),
               is_final = name == "norm_out" || name == "proj_out", is_time = name.starts_with("time");
    const std::string theirs = reference_name(std::string(name));
    if (is_time) return comparison.compare(theirs, value);
    comparison.compare_rows(theirs, value,
                            is_final    ? image_rows
                            : is_single ? all_rows
                            : is_text   ? text_rows
                                        : stream_rows);
  };
  const flux2::Modulation modulation = flux2::Modulation::take(arena, config, 1);
  const float time = *of.tensor("time").data<float>();
  transformer.modulate(ctx_, {&time, 1}, modulation, probe);
  comparison.compare("transformer.time_features", modulation.features);
  comparison.compare("transformer.double_stream_modulation_img.modulation", modulation.doubles[flux2::kImage].steps);
  comparison.compare("transformer.double_stream_modulation_txt.modulation", modulation.doubles[flux2::kText].steps);
  comparison.compare("transformer.single_stream_modulation.modulation", modulation.singles.steps);
  comparison.compare("transformer.norm_out.modulation", modulation.final.steps);
  flux2::Transformer::select_step(ctx_, modulation, 0);

  Tensor text({}, DType::f32, {kPadded, config.hidden()}),
      reference_rows({}, DType::f32, {reference_grid.tokens(), config.hidden()});
  transformer.embed_text(ctx_, features, text);
  transformer.embed_tokens(ctx_, tokens_of(ctx_, reference), reference_rows);
  const Tensor tokens = tokens_of(ctx_, latents);
  Tensor velocity({}, DType::f32, tokens.shape());
  const std::array<const flux2::Layout*, 1> layouts{&layout};
  const std::array passes{flux2::Pass{tokens, &layout, text, reference_rows, velocity}};
  transformer.forward(ctx_, passes, modulation, flux2::Scratch::take(arena, config, layouts, DType::f32), probe);
  return velocity;
}

TEST_P(KleinProbes, Transformer) {
  const SafetensorsFile of = file("probes_transformer");
  ProbeComparison comparison(of);
  const Tensor velocity = forward(of, comparison);
  const ConstView latents = of.tensor("latents");
  Tensor planes({}, DType::f32, latents.shape());
  ops::unpatchify(ctx_, velocity, 1, planes);
  comparison.compare("velocity", planes);
  const float* sigmas = of.tensor("sigmas").data<float>();
  for (int64_t i = 0; i < planes.shape().elements(); ++i)
    planes.data<float>()[i] = latents.data<float>()[i] + (sigmas[1] - sigmas[0]) * planes.data<float>()[i];
  comparison.compare("final_latents", planes);
  const flux2::Config& config = model_.transformer_config();
  // Beside the blocks: the rotation, the time with its features and four tables, both embedders, the last norm, the
  // end.
  EXPECT_EQ(comparison.compared(), 2 * config.double_layers + config.single_layers + 2 + 6 + 2 + 1 + 2);
}

TEST_P(KleinProbes, Autoencoder) {
  const SafetensorsFile of = file("probes_vae");
  const autoencoder_kl::Autoencoder& vae = model_.autoencoder();
  const autoencoder_kl::Config& config = vae.config();
  ProbeComparison comparison(of);
  const nn::Probe probe = [&](std::string_view name, ConstView value) {
    comparison.compare("vae." + std::string(name), to_channels_first(value));
  };
  const int64_t levels = std::ssize(config.block_channels), layers = config.layers_per_block;
  const ConstView packed = of.tensor("vae.decoder.packed");
  const int64_t height = packed.shape()[1] * config.patch, width = packed.shape()[2] * config.patch;
  const nn::RowShards shards(height);
  Arena arena({}, size_t{64} << 20);
  Tensor image({}, DType::f32, {height * config.scale(), width * config.scale(), 3});
  vae.decode(ctx_, shards, packed, vae.take_decode_scratch(arena, shards, height, width), image, probe);
  // The unpacked latents after two steps, three of the middle, the first level's residual blocks, three of the end.
  const int64_t decoder = 3 + 3 + (layers + 1) + levels + 2;
  EXPECT_EQ(comparison.compared(), decoder);

  arena.rewind(0);
  const Tensor picture = to_channels_last(of.tensor("vae.encoder.input"));
  Tensor moments({}, DType::f32, {height, width, 2 * config.latent_channels});
  vae.encode(ctx_, shards, picture, vae.take_encode_scratch(arena, shards, width), moments, probe);
  comparison.compare("vae.moments", to_channels_first(moments));
  Tensor tokens({}, DType::f32, {packed.shape()[1] * packed.shape()[2], config.packed_channels()}),
      planes({}, DType::f32, packed.shape());
  vae.pack_means(ctx_, moments, tokens);
  ops::unpatchify(ctx_, tokens, 1, planes);
  comparison.compare("vae.encoder.packed", planes);
  EXPECT_EQ(comparison.compared(), decoder + 1 + layers + levels + 3 + 2 + 2);
}

}  // namespace
}  // namespace nostos::test
