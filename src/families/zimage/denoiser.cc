// Implements a step of the Z-Image transformer.
#include "families/zimage/denoiser.h"

#include <algorithm>

namespace nostos::zimage {

TransformerDenoiser::TransformerDenoiser(Arena& arena, const Model& model, const DenoiserPlan& plan)
    : model_(model),
      share_(plan.share),
      passes_apart_(plan.passes_apart),
      caption_rows_(plan.embedding_rows.begin(), plan.embedding_rows.end()),
      conditionings_(caption_rows_.size()) {
  const Config& config = model.transformer_config();
  for (const size_t caption : plan.embeddings) {
    if (conditionings_[caption].padded_caption > 0) continue;
    conditionings_[caption] = Conditioning::take(arena, config, share_, caption_rows_[caption]);
  }
  modulation_ = Modulation::take(arena, config, plan.steps, model.dtype());
}

TransformerDenoiser::Images TransformerDenoiser::images_of(std::span<const DenoisePass> passes) const {
  Images images;
  for (size_t pass = 0; pass < passes.size(); ++pass) {
    const auto known = std::ranges::find_if(images.passes, [&](size_t other) {
      return passes[other].image == passes[pass].image &&
             caption_rows_[passes[other].embedding] == caption_rows_[passes[pass].embedding];
    });
    images.of_pass.push_back(static_cast<size_t>(known - images.passes.begin()));
    if (known == images.passes.end()) images.passes.push_back(pass);
  }
  return images;
}

template <class Refine, class Forward>
void TransformerDenoiser::lay_out(Arena& arena, std::span<const DenoisePass> passes, const Images& images,
                                  const Refine& refine, const Forward& forward) const {
  const Config& config = model_.transformer_config();
  const auto in_groups = [&](size_t all, const auto& work) {
    const size_t group = passes_apart_ ? 1 : all;
    for (size_t first = 0; first < all; first += group) work(first, group);
  };
  const View refined = take(arena, DType::f32, {std::ssize(images.passes) * share_.image().rows(), config.hidden});
  const size_t mark = arena.used_bytes();
  in_groups(images.passes.size(), [&](size_t first, size_t count) {
    arena.rewind(mark);
    refine(first, count, take_image_scratch(arena, config, share_, count, model_.dtype()), refined);
  });
  in_groups(passes.size(), [&](size_t first, size_t count) {
    std::vector<const Conditioning*> of_passes;
    for (const DenoisePass& pass : passes.subspan(first, count)) of_passes.push_back(&conditionings_[pass.embedding]);
    arena.rewind(mark);
    forward(first, count, Scratch::take(arena, config, share_, of_passes, model_.dtype()), refined);
  });
}

void TransformerDenoiser::take_scratch(Arena& arena, std::span<const DenoisePass> passes) {
  Arena measure(arena.device());
  const auto nothing = [](auto&&...) {};
  lay_out(measure, passes, images_of(passes), nothing, nothing);
  scratch_ = take(arena, DType::u8, {static_cast<int64_t>(measure.peak_bytes())});
}

void TransformerDenoiser::take_embeddings(Context& ctx, std::span<const ConstView> captions, bool with_positions) {
  for (size_t i = 0; i < conditionings_.size(); ++i) {
    if (conditionings_[i].padded_caption == 0) continue;
    if (with_positions) model_.transformer().fill_positions(ctx, share_, conditionings_[i]);
    model_.transformer().take_caption(ctx, share_, captions[i], conditionings_[i]);
  }
}

void TransformerDenoiser::take_times(Context& ctx, std::span<const float> times) {
  model_.transformer().modulate(ctx, times, modulation_);
}

void TransformerDenoiser::select_step(Context& ctx, int64_t step) { Transformer::select_step(ctx, modulation_, step); }

void TransformerDenoiser::predict(Context& ctx, std::span<const DenoisePass> passes) {
  const Transformer& transformer = model_.transformer();
  const Images images = images_of(passes);
  const int64_t image_rows = share_.image().rows();
  Arena arena(ctx.device(), scratch_.bytes(), scratch_.size_in_bytes());
  const auto refine = [&](size_t first, size_t count, const BlockScratch& scratch, View refined) {
    std::vector<ImageInput> inputs;
    for (const size_t pass : std::span(images.passes).subspan(first, count)) {
      const nn::RopeTable& rope = conditionings_[passes[pass].embedding].rope;
      inputs.push_back({passes[pass].tokens, rope.rows(0, image_rows)});
    }
    const View rows = refined.rows(static_cast<int64_t>(first) * image_rows, static_cast<int64_t>(count) * image_rows);
    transformer.refine_images(ctx, share_, {inputs, rows}, modulation_, scratch);
  };
  const auto forward = [&](size_t first, size_t count, const Scratch& scratch, View refined) {
    std::vector<Pass> inputs;
    for (size_t pass = first; pass < first + count; ++pass) {
      inputs.push_back({refined.rows(static_cast<int64_t>(images.of_pass[pass]) * image_rows, image_rows),
                        &conditionings_[passes[pass].embedding], passes[pass].velocity});
    }
    transformer.forward(ctx, share_, {inputs}, modulation_, scratch);
  };
  lay_out(arena, passes, images, refine, forward);
}

double TransformerDenoiser::flop(std::span<const DenoisePass> passes) const {
  const Transformer& transformer = model_.transformer();
  const int64_t padded_image = share_.plan().padded_tokens();
  double flop = static_cast<double>(images_of(passes).passes.size()) * transformer.refine_flop(padded_image);
  for (const DenoisePass& pass : passes) flop += transformer.forward_flop(padded_image, caption_rows_[pass.embedding]);
  return flop;
}

}  // namespace nostos::zimage
