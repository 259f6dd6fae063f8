// Implements a step of the FLUX.2 transformer.
#include "families/flux2_klein/denoiser.h"

#include <algorithm>

#include "ops/elementwise.h"

namespace nostos::flux2_klein {

TransformerDenoiser::TransformerDenoiser(Arena& arena, const Model& model, const DenoiserPlan& plan)
    : model_(model),
      share_(plan.share),
      passes_apart_(plan.passes_apart),
      references_(plan.references.begin(), plan.references.end()),
      text_rows_(plan.embedding_rows.begin(), plan.embedding_rows.end()),
      texts_(text_rows_.size()) {
  const flux2::Config& config = model.transformer_config();
  for (const parallel::Grid& reference : references_) reference_tokens_ += reference.tokens();
  for (const size_t embedding : plan.embeddings) {
    if (texts_[embedding]) continue;
    Text& text = texts_[embedding].emplace();
    const int64_t length = text_rows_[embedding];
    const auto known = std::ranges::find(layouts_, length, &flux2::Layout::text);
    text.layout = static_cast<size_t>(known - layouts_.begin());
    if (known == layouts_.end())
      layouts_.push_back(flux2::Layout::take(arena, config, share_, length, reference_tokens_));
    text.rows = take(arena, DType::f32, {layout_of(embedding).text_rows().count, config.hidden()});
  }
  if (reference_tokens_ > 0)
    reference_rows_ = take(arena, DType::f32, {share_.beside_rows(reference_tokens_).count, config.hidden()});
  modulation_ = flux2::Modulation::take(arena, config, plan.steps);
}

template <class Forward>
void TransformerDenoiser::lay_out(Arena& arena, std::span<const DenoisePass> passes, const Forward& forward) const {
  const size_t group = passes_apart_ ? 1 : passes.size(), mark = arena.used_bytes();
  for (size_t first = 0; first < passes.size(); first += group) {
    std::vector<const flux2::Layout*> layouts;
    for (const DenoisePass& pass : passes.subspan(first, group)) layouts.push_back(&layout_of(pass.embedding));
    arena.rewind(mark);
    forward(passes.subspan(first, group),
            flux2::Scratch::take(arena, model_.transformer_config(), layouts, model_.dtype()));
  }
}

void TransformerDenoiser::take_scratch(Arena& arena, std::span<const DenoisePass> passes) {
  Arena measure(arena.device());
  lay_out(measure, passes, [](auto&&...) {});
  scratch_ = take(arena, DType::u8, {static_cast<int64_t>(measure.peak_bytes())});
}

void TransformerDenoiser::take_embeddings(Context& ctx, std::span<const ConstView> embeddings, bool with_positions) {
  if (with_positions)
    for (const flux2::Layout& layout : layouts_) model_.transformer().fill_positions(ctx, share_, references_, layout);
  for (size_t i = 0; i < texts_.size(); ++i) {
    if (!texts_[i]) continue;
    const parallel::Range own = share_.beside_rows(embeddings[i].shape()[0]);
    ops::convert(ctx, embeddings[i].rows(own.begin, own.count), texts_[i]->rows);
  }
}

void TransformerDenoiser::take_references(Context& ctx, ConstView tokens) {
  if (!reference_rows_) return;
  const parallel::Range own = share_.beside_rows(reference_tokens_);
  model_.transformer().embed_tokens(ctx, tokens.rows(own.begin, own.count), reference_rows_);
}

void TransformerDenoiser::take_times(Context& ctx, std::span<const float> times) {
  model_.transformer().modulate(ctx, times, modulation_);
}

void TransformerDenoiser::select_step(Context& ctx, int64_t step) {
  flux2::Transformer::select_step(ctx, modulation_, step);
}

void TransformerDenoiser::predict(Context& ctx, std::span<const DenoisePass> passes) {
  Arena arena(ctx.device(), scratch_.bytes(), scratch_.size_in_bytes());
  lay_out(arena, passes, [&](std::span<const DenoisePass> group, const flux2::Scratch& scratch) {
    std::vector<flux2::Pass> inputs;
    for (const DenoisePass& pass : group)
      inputs.push_back(
          {pass.tokens, &layout_of(pass.embedding), texts_[pass.embedding]->rows, reference_rows_, pass.velocity});
    model_.transformer().forward(ctx, inputs, modulation_, scratch);
  });
}

double TransformerDenoiser::flop(std::span<const DenoisePass> passes) const {
  double flop = 0;
  for (const DenoisePass& pass : passes)  // of all ranks: this one may have no layout of some
    flop += model_.transformer().flop(text_rows_[pass.embedding], share_.grid().tokens(), reference_tokens_);
  return flop;
}

}  // namespace nostos::flux2_klein
