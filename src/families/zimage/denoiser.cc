// Implements a step of the Z-Image transformer.
#include "families/zimage/denoiser.h"

#include <algorithm>

#include "ops/patches.h"

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
  if (!plan.has_control) return;
  control_modulation_ = ControlModulation::take(arena, *model.control_config(), plan.steps, model.dtype());
  control_image_ = ControlImage::take(arena, *model.control_config(), share_, plan.steps);
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

View TransformerDenoiser::rows_of(View refined, const Group& images) const {
  const int64_t rows = share_.image().rows();
  return refined.rows(static_cast<int64_t>(images.first) * rows, static_cast<int64_t>(images.count) * rows);
}

TransformerDenoiser::Beside TransformerDenoiser::beside_images(Arena& arena, std::span<const DenoisePass> passes,
                                                               const Images& images, const Group& group,
                                                               View control) const {
  Beside beside;
  for (size_t i = 0; i < group.count; ++i) {
    const size_t image = group.first + i;
    if (passes[images.passes[image]].is_controlled)
      beside.controlled.push_back({i, &*control_image_, rows_of(control, {image, 1})});
  }
  if (!beside.controlled.empty())
    beside.scratch =
        take_image_scratch(arena, model_.transformer_config(), share_, beside.controlled.size(), model_.dtype());
  return beside;
}

TransformerDenoiser::Beside TransformerDenoiser::beside_passes(Arena& arena, std::span<const DenoisePass> passes,
                                                               const Images& images, const Group& group,
                                                               View control) const {
  Beside beside;
  std::vector<const nn::ShardedSequence*> sequences;
  for (size_t i = 0; i < group.count; ++i) {
    const DenoisePass& pass = passes[group.first + i];
    if (!pass.is_controlled) continue;
    beside.controlled.push_back({i, &*control_image_, rows_of(control, {images.of_pass[group.first + i], 1})});
    sequences.push_back(&conditionings_[pass.embedding].sequence);
  }
  if (beside.controlled.empty()) return beside;
  const Config& config = model_.transformer_config();
  beside.stream = take(arena, DType::f32, {nn::rows_of(sequences), config.hidden});
  const size_t mark = arena.used_bytes();
  // Where the transformer's scratch has its own stream the network's has nothing.
  std::vector<const Conditioning*> of_passes = conditionings_of(passes, group);
  const Scratch whole = Scratch::take(arena, config, share_, of_passes, model_.dtype());
  arena.rewind(mark);
  take(arena, DType::f32, whole.x.shape());
  beside.scratch = BlockScratch::take(arena, config, sequences, model_.dtype());
  arena.rewind(mark);
  return beside;
}

std::vector<const Conditioning*> TransformerDenoiser::conditionings_of(std::span<const DenoisePass> passes,
                                                                       const Group& group) const {
  std::vector<const Conditioning*> conditionings;
  for (const DenoisePass& pass : passes.subspan(group.first, group.count))
    conditionings.push_back(&conditionings_[pass.embedding]);
  return conditionings;
}

template <class Refine, class Forward>
void TransformerDenoiser::lay_out(Arena& arena, std::span<const DenoisePass> passes, const Images& images,
                                  const Refine& refine, const Forward& forward) const {
  const Config& config = model_.transformer_config();
  const auto in_groups = [&](size_t all, const auto& work) {
    const size_t count = passes_apart_ ? 1 : all;
    for (size_t first = 0; first < all; first += count) work(Group{first, count});
  };
  const Shape rows{std::ssize(images.passes) * share_.image().rows(), config.hidden};
  const View refined = take(arena, DType::f32, rows);
  View control;
  if (std::ranges::any_of(passes, &DenoisePass::is_controlled)) control = take(arena, DType::f32, rows);
  const size_t mark = arena.used_bytes();
  in_groups(images.passes.size(), [&](const Group& group) {
    arena.rewind(mark);
    const Beside beside = beside_images(arena, passes, images, group, control);
    arena.rewind(mark);
    refine(group, take_image_scratch(arena, config, share_, group.count, model_.dtype()), refined, beside);
  });
  in_groups(passes.size(), [&](const Group& group) {
    arena.rewind(mark);
    const Beside beside = beside_passes(arena, passes, images, group, control);
    forward(group, Scratch::take(arena, config, share_, conditionings_of(passes, group), model_.dtype()), refined,
            beside);
  });
}

void TransformerDenoiser::take_scratch(Arena& arena, std::span<const DenoisePass> passes) {
  Arena measure(arena.device());
  const auto nothing = [](auto&&...) {};
  lay_out(measure, passes, images_of(passes), nothing, nothing);
  if (control_image_) {
    measure.rewind(0);
    take_condition(measure);
  }
  scratch_ = take(arena, DType::u8, {static_cast<int64_t>(measure.peak_bytes())});
}

TransformerDenoiser::Condition TransformerDenoiser::take_condition(Arena& arena) const {
  const int64_t width = model_.control_config()->dims.patch_width();
  return {take(arena, DType::f32, {share_.grid().tokens(), width}),
          take(arena, DType::f32, {share_.image_tokens(), width})};
}

void TransformerDenoiser::take_embeddings(Context& ctx, std::span<const ConstView> captions, bool with_positions) {
  for (size_t i = 0; i < conditionings_.size(); ++i) {
    if (conditionings_[i].padded_caption == 0) continue;
    if (with_positions) model_.transformer().fill_positions(ctx, share_, conditionings_[i]);
    model_.transformer().take_caption(ctx, share_, captions[i], conditionings_[i]);
  }
}

void TransformerDenoiser::take_control(Context& ctx, ConstView condition, std::span<const float> scales) {
  Arena arena(ctx.device(), scratch_.bytes(), scratch_.size_in_bytes());
  const auto [whole, own] = take_condition(arena);
  ops::patchify(ctx, condition, model_.control_config()->dims.patch, whole);
  share_.cut_tokens(ctx, whole, own);
  model_.control().take_image(ctx, model_.transformer(), own, scales, *control_image_);
}

void TransformerDenoiser::take_times(Context& ctx, std::span<const float> times) {
  model_.transformer().modulate(ctx, times, modulation_);
  if (control_image_) model_.control().modulate(ctx, modulation_, control_modulation_);
}

void TransformerDenoiser::select_step(Context& ctx, int64_t step) {
  Transformer::select_step(ctx, modulation_, step);
  if (!control_image_) return;
  const ControlImage* const image = &*control_image_;
  ControlNetwork::select_step(ctx, control_modulation_, {&image, 1}, step);
}

void TransformerDenoiser::predict(Context& ctx, std::span<const DenoisePass> passes) {
  const Transformer& transformer = model_.transformer();
  const Images images = images_of(passes);
  const int64_t image_rows = share_.image().rows();
  Arena arena(ctx.device(), scratch_.bytes(), scratch_.size_in_bytes());
  const auto refine = [&](const Group& group, const BlockScratch& scratch, View refined, const Beside& beside) {
    std::vector<ImageInput> inputs;
    for (const size_t pass : std::span(images.passes).subspan(group.first, group.count)) {
      const nn::RopeTable& rope = conditionings_[passes[pass].embedding].rope;
      inputs.push_back({passes[pass].tokens, rope.rows(0, image_rows)});
    }
    std::optional<RefinerControl> control;
    if (!beside.controlled.empty()) control.emplace(work_of(beside));
    transformer.refine_images(ctx, share_, {inputs, rows_of(refined, group), control ? &*control : nullptr},
                              modulation_, scratch);
  };
  const auto forward = [&](const Group& group, const Scratch& scratch, View refined, const Beside& beside) {
    std::vector<Pass> inputs;
    for (size_t pass = group.first; pass < group.first + group.count; ++pass) {
      inputs.push_back({rows_of(refined, {images.of_pass[pass], 1}), &conditionings_[passes[pass].embedding],
                        passes[pass].velocity});
    }
    std::optional<LayersControl> control;
    if (!beside.controlled.empty()) control.emplace(work_of(beside), beside.stream);
    transformer.forward(ctx, share_, {inputs, control ? &*control : nullptr}, modulation_, scratch);
  };
  lay_out(arena, passes, images, refine, forward);
}

double TransformerDenoiser::flop(std::span<const DenoisePass> passes) const {
  const Transformer& transformer = model_.transformer();
  const int64_t padded_image = share_.plan().padded_tokens();
  double flop = 0;
  for (const size_t pass : images_of(passes).passes) {
    flop += transformer.refine_flop(padded_image);
    if (passes[pass].is_controlled) flop += model_.control().refine_flop(padded_image);
  }
  for (const DenoisePass& pass : passes) {
    flop += transformer.forward_flop(padded_image, caption_rows_[pass.embedding]);
    if (pass.is_controlled) flop += model_.control().forward_flop(padded_image, caption_rows_[pass.embedding]);
  }
  return flop;
}

}  // namespace nostos::zimage
