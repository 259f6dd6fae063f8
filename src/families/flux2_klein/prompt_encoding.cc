// Implements the making of prompt embeddings.
#include "families/flux2_klein/prompt_encoding.h"

namespace nostos::flux2_klein {

TextEncoding::TextEncoding(Arena& arena, const Model& model, std::span<const PromptLength> prompts, View embeddings)
    : model_(model), embeddings_(embeddings) {
  for (const PromptLength& prompt : prompts) prompts_.push_back({prompt.tokens, prompt.max_tokens - prompt.tokens});
  features_ = take(arena, DType::f32, {embeddings.shape()[0], model.transformer_config().text_width});
}

void TextEncoding::take_scratch(Arena& arena) {
  encoder_ = qwen3::Scratch::take(arena, model_.encoder_config(), prompts_, model_.dtype());
}

void TextEncoding::take_ids(Context& ctx, std::span<const std::span<const int32_t>> ids) {
  std::vector<std::vector<int32_t>> padded;
  for (size_t i = 0; i < ids.size(); ++i) {
    padded.emplace_back(ids[i].begin(), ids[i].end())
        .resize(static_cast<size_t>(prompts_[i].all()), model_.pad_token());
  }
  const std::vector<std::span<const int32_t>> rows(padded.begin(), padded.end());
  model_.encoder().take_ids(ctx, rows, encoder_);
}

void TextEncoding::run(Context& ctx, size_t pass) {
  if (pass == 0)
    model_.encoder().encode(ctx, prompts_, encoder_, features_);
  else
    model_.transformer().embed_text(ctx, features_, embeddings_);
}

}  // namespace nostos::flux2_klein
