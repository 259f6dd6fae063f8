// Implements the Z-Image transformer. Source: Z-Image (arXiv 2511.22699); diffusers transformer_z_image.py @58eb52c0.
#include "models/zimage/transformer.h"

#include <array>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "nn/timestep_embedding.h"
#include "ops/elementwise.h"
#include "ops/norm.h"

namespace nostos::zimage {
namespace {

constexpr float kFinalNormEps = 1e-6f;

/// Caption rows, pads included, carry consecutive positions from 1; the image plane comes after the last.
nn::AxialPosition caption_position(int64_t row) { return {1 + row, 0, 0}; }

std::vector<nn::ShardedSequence> padded_captions(std::span<const int64_t> lengths) {
  std::vector<nn::ShardedSequence> captions;
  for (const int64_t length : lengths) captions.emplace_back(padded_tokens(length));
  return captions;
}

}  // namespace

Conditioning Conditioning::take(Arena& arena, const Config& config, const nn::SequenceParallel& picture,
                                int64_t padded_caption) {
  nn::ShardedSequence sequence =
      picture.sequence(std::array{nn::Segment{.is_image = true}, nn::Segment{.rows = padded_caption}});
  const int64_t rows = sequence.rows(), caption_rows = rows - picture.image().rows();
  return {std::move(sequence), padded_caption, nostos::take(arena, DType::f32, {caption_rows, config.hidden}),
          nn::RopeTable::take(arena, rows, config.head_dim())};
}

Modulation Modulation::take(Arena& arena, const Config& config, int64_t steps, DType dtype) {
  const int64_t blocks = config.refiner_layers + config.layers, width = config.modulation_width();
  return {nostos::take(arena, DType::f32, {blocks, steps, 4 * config.hidden}),
          nostos::take(arena, DType::f32, {1, steps, config.hidden}),
          nostos::take(arena, DType::f32, {blocks, 1, 4 * config.hidden}),
          nostos::take(arena, DType::f32, {1, 1, config.hidden}),
          nostos::take(arena, DType::f32, {steps, kTimeFeatures}),
          nostos::take(arena, DType::f32, {steps, kTimeHidden}),
          nostos::take(arena, DType::f32, {steps, width}),
          nostos::take(arena, dtype, {steps, width})};
}

RefineScratch RefineScratch::take(Arena& arena, const Config& config, std::span<const int64_t> lengths, DType dtype) {
  const std::vector<nn::ShardedSequence> captions = padded_captions(lengths);
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  return {nostos::take(arena, DType::f32, {tokens, config.caption_width}),
          BlockScratch::take(arena, config, nn::pointers_to(captions), dtype)};
}

Scratch Scratch::take(Arena& arena, const Config& config, const nn::SequenceParallel& picture,
                      std::span<const Conditioning* const> conditionings, DType dtype) {
  std::vector<const nn::ShardedSequence*> sequences;
  for (const Conditioning* conditioning : conditionings) sequences.push_back(&conditioning->sequence);
  Scratch s;
  s.x = nostos::take(arena, DType::f32, {nn::rows_of(sequences), config.hidden});
  const size_t mark = arena.used_bytes();
  s.final_normed = nostos::take(arena, DType::f32, {picture.image_tokens(), config.hidden});
  arena.rewind(mark);
  s.blocks = BlockScratch::take(arena, config, sequences, dtype);  // the largest last
  return s;
}

BlockScratch take_image_scratch(Arena& arena, const Config& config, const nn::SequenceParallel& picture, size_t count,
                                DType dtype) {
  return BlockScratch::take(arena, config, std::vector<const nn::ShardedSequence*>(count, &picture.image()), dtype);
}

Transformer::Transformer(Context& ctx, const Config& config, Weights weights, DType dtype, int64_t max_tokens)
    : config_(config),
      weights_(std::move(weights)),
      dtype_(dtype),
      caption_rope_(ctx.device(), padded_tokens(max_tokens), config.head_dim()) {
  std::vector<nn::AxialPosition> positions;
  for (int64_t row = 0; row < padded_tokens(max_tokens); ++row) positions.push_back(caption_position(row));
  nn::fill_axial_rope(ctx, {config_.axes_dims, config_.rope_theta}, positions, caption_rope_.table());
}

void Transformer::refine(Context& ctx, std::span<const int64_t> lengths, ConstView features, const RefineScratch& s,
                         View captions, const nn::Probe& probe) const {
  ops::rms_norm(ctx, features, weights_.caption_norm, {}, config_.norm_eps, s.normed);
  const std::vector<nn::ShardedSequence> padded = padded_captions(lengths);
  std::vector<nn::AttendedSequence> sequences;
  int64_t token = 0, row = 0;
  for (size_t i = 0; i < padded.size(); ++i) {
    const int64_t length = lengths[i], rows = padded[i].rows();
    const View caption = captions.rows(row, rows);
    ops::linear(ctx, s.normed.rows(token, length), weights_.caption_embedder, caption.rows(0, length));
    ops::fill_rows(ctx, weights_.caption_pad_token, caption.rows(length, rows - length));
    sequences.push_back({&padded[i], caption_rope_.first(rows)});
    token += length;
    row += rows;
  }
  report(probe, "cap_embedder", captions);

  const auto unmodulated = [](size_t) { return BlockModulation{}; };
  BlockRun{ctx, config_, sequences, s.blocks, probe}.all(weights_.context_refiner, unmodulated, captions,
                                                         "context_refiner");
}

void Transformer::fill_positions(Context& ctx, const nn::SequenceParallel& picture, const Conditioning& out) const {
  const int64_t padded_caption = out.padded_caption, tokens = picture.grid().tokens(),
                padded_image = picture.plan().padded_tokens(), width = picture.grid().width;
  std::vector<nn::AxialPosition> positions;
  for (const auto& run : out.sequence.runs()) {
    for (int64_t row = run.begin; row < run.end(); ++row) {
      if (row < tokens)
        positions.push_back({padded_caption + 1, row / width, row % width});
      else if (row < padded_image)
        positions.push_back({0, 0, 0});
      else
        positions.push_back(caption_position(row - padded_image));
    }
  }
  nn::fill_axial_rope(ctx, {config_.axes_dims, config_.rope_theta}, positions, out.rope);
}

void Transformer::take_caption(Context& ctx, const nn::SequenceParallel& picture, ConstView caption,
                               const Conditioning& out) const {
  const auto rows = picture.beside_rows(caption.shape()[0]);
  ops::convert(ctx, caption.rows(rows.begin, rows.count), out.caption);
}

void Transformer::modulate(Context& ctx, std::span<const float> times, const Modulation& out,
                           const nn::Probe& probe) const {
  const int64_t steps = static_cast<int64_t>(times.size());
  std::vector<float> scaled(times.begin(), times.end());
  for (float& time : scaled) time *= static_cast<float>(config_.t_scale);

  nn::timestep_features(ctx, scaled, out.features);
  ops::linear(ctx, out.features, weights_.time_in, out.time_hidden);
  ops::silu(ctx, out.time_hidden, out.time_hidden);
  ops::linear(ctx, out.time_hidden, weights_.time_out, out.embedded);
  report(probe, "t_embedder", out.embedded);

  ops::convert(ctx, out.embedded, out.input);
  int64_t index = 0;
  for (const std::vector<BlockWeights>* blocks : {&weights_.noise_refiner, &weights_.layers}) {
    for (const BlockWeights& block : *blocks) {
      modulate_block(ctx, out.input, block, out.blocks.rows(index++, 1).reshape({steps, 4 * config_.hidden}));
    }
  }
  ops::silu(ctx, out.embedded, out.input);
  const View final = out.final.reshape({steps, config_.hidden});
  ops::linear(ctx, out.input, weights_.final_modulation, final);
  ops::add_scalar(ctx, 1.f, final);
}

void Transformer::select_step(Context& ctx, const Modulation& modulation, int64_t step) {
  const ops::RowRun row{step, 0, 1};
  ops::copy_rows(ctx, modulation.blocks, modulation.step_blocks, {&row, 1});
  ops::copy_rows(ctx, modulation.final, modulation.step_final, {&row, 1});
}

void Transformer::refine_images(Context& ctx, const nn::SequenceParallel& picture, const ImageBatch& batch,
                                const Modulation& modulation, const BlockScratch& s, const nn::Probe& probe) const {
  const auto& [images, refined, between] = batch;
  const int64_t real = picture.image_tokens(), rows = picture.image().rows();
  std::vector<nn::AttendedSequence> sequences;
  for (const ImageInput& image : images) {
    const View x = refined.rows(std::ssize(sequences) * rows, rows);
    ops::linear(ctx, image.tokens, weights_.x_embedder, x.rows(0, real));
    ops::fill_rows(ctx, weights_.x_pad_token, x.rows(real, rows - real));
    sequences.push_back({&picture.image(), image.rope});
  }
  report(probe, "x_embedder", refined);
  const auto of_block = [&](size_t i) { return step_modulation(modulation.step_blocks, static_cast<int64_t>(i)); };
  BlockRun{ctx, config_, sequences, s, probe}.all(weights_.noise_refiner, of_block, refined, "noise_refiner", between);
}

void Transformer::forward(Context& ctx, const nn::SequenceParallel& picture, const PassBatch& batch,
                          const Modulation& modulation, const Scratch& s, const nn::Probe& probe) const {
  const auto& [passes, between] = batch;
  const int64_t real = picture.image_tokens(), image = picture.image().rows();
  std::vector<nn::AttendedSequence> sequences;
  std::vector<View> rows_of;
  int64_t begin = 0;
  for (const Pass& pass : passes) {
    const auto& [sequence, padded_caption, caption, rope] = *pass.conditioning;
    const View x = rows_of.emplace_back(s.x.rows(begin, sequence.rows()));
    ops::convert(ctx, pass.image, x.rows(0, image));
    ops::convert(ctx, caption, x.rows(image, caption.shape()[0]));
    sequences.push_back({&sequence, rope});
    begin += sequence.rows();
  }
  const auto of_block = [&](size_t i) {
    return step_modulation(modulation.step_blocks, static_cast<int64_t>(weights_.noise_refiner.size() + i));
  };
  BlockRun{ctx, config_, sequences, s.blocks, probe}.all(weights_.layers, of_block, s.x, "layers", between);
  for (size_t i = 0; i < passes.size(); ++i) {
    ops::layer_norm_scaled(ctx, rows_of[i].rows(0, real), modulation.step_final.reshape({config_.hidden}),
                           kFinalNormEps, s.final_normed);
    ops::linear(ctx, s.final_normed, weights_.final_linear, passes[i].velocity);
    report(probe, "final_layer", passes[i].velocity);
  }
}

namespace {

/// Of the embedder, and of the final layer.
double edge_flop(const Config& config, int64_t padded_image) {
  return 2.0 * static_cast<double>(padded_image) * static_cast<double>(config.patch_width() * config.hidden);
}

}  // namespace

double Transformer::refine_flop(int64_t padded_image) const {
  return blocks_flop(config_, config_.refiner_layers, padded_image) + edge_flop(config_, padded_image);
}

double Transformer::forward_flop(int64_t padded_image, int64_t padded_caption) const {
  return blocks_flop(config_, config_.layers, padded_image + padded_caption) + edge_flop(config_, padded_image);
}

}  // namespace nostos::zimage
