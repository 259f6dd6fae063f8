// Implements the making of captions.
#include "families/zimage/prompt_encoding.h"

#include <numeric>

namespace nostos::zimage {

CaptionEncoding::CaptionEncoding(Arena& arena, const Model& model, std::span<const PromptLength> prompts, View captions)
    : model_(model), captions_(captions) {
  for (const PromptLength& prompt : prompts) {
    lengths_.push_back(prompt.tokens);
    prompts_.push_back({prompt.tokens, 0});
  }
  features_ = take(arena, DType::f32,
                   {std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0}), model.encoder_config().hidden});
}

void CaptionEncoding::take_scratch(Arena& arena) {
  const size_t mark = arena.used_bytes();
  encoder_ = qwen3::Scratch::take(arena, model_.encoder_config(), prompts_, model_.dtype());
  arena.rewind(mark);
  refiner_ = RefineScratch::take(arena, model_.transformer_config(), lengths_, model_.dtype());
}

void CaptionEncoding::take_ids(Context& ctx, std::span<const std::span<const int32_t>> ids) {
  model_.encoder().take_ids(ctx, ids, encoder_);
}

void CaptionEncoding::run(Context& ctx, size_t pass) {
  if (pass == 0)
    model_.encoder().encode(ctx, prompts_, encoder_, features_);
  else
    model_.transformer().refine(ctx, lengths_, features_, refiner_, captions_);
}

}  // namespace nostos::zimage
