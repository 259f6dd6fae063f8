// Owns the way from a prompt's tokens to FLUX.2-klein's prompt embedding: three hidden states of the text encoder side
// by side, through the transformer's text embedder. Model::take_prompts() makes one for each batch of prompts.
#pragma once

#include <span>
#include <vector>

#include "families/flux2_klein/model.h"

namespace nostos::flux2_klein {

/// Pass 0 encodes the prompts, pads included: the transformer attends to them. Pass 1 embeds the features of pass 0.
class TextEncoding final : public PromptEncoding {
 public:
  /// Takes the memory of the features. The arguments are those of Family::take_prompts().
  TextEncoding(Arena& arena, const Model& model, std::span<const PromptLength> prompts, View embeddings);

  void take_scratch(Arena& arena) override;
  void take_ids(Context& ctx, std::span<const std::span<const int32_t>> ids) override;
  void run(Context& ctx, size_t pass) override;

 private:
  const Model& model_;
  std::vector<qwen3::PromptRows> prompts_;
  View features_;    // f32 [rows of all, the transformer's text width]
  View embeddings_;  // f32 [rows of all, hidden]
  qwen3::Scratch encoder_;
};

}  // namespace nostos::flux2_klein
