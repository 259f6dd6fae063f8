// Owns the way from a prompt's tokens to Z-Image's prompt embedding ("caption"): the text encoder's features, refined
// by the transformer. Model::take_prompts() makes one for each batch of prompts.
#pragma once

#include <span>
#include <vector>

#include "families/zimage/model.h"

namespace nostos::zimage {

/// Pass 0 encodes the prompts. Pass 1 embeds and refines the features of pass 0, by Transformer::refine().
class CaptionEncoding final : public PromptEncoding {
 public:
  /// Takes the memory of the features. The arguments are those of Family::take_prompts().
  CaptionEncoding(Arena& arena, const Model& model, std::span<const PromptLength> prompts, View captions);

  void take_scratch(Arena& arena) override;
  void take_ids(Context& ctx, std::span<const std::span<const int32_t>> ids) override;
  void run(Context& ctx, size_t pass) override;

 private:
  const Model& model_;
  std::vector<int64_t> lengths_;
  std::vector<qwen3::PromptRows> prompts_;  // the same: nothing is padded
  View features_;                           // f32 [tokens of all, the encoder's hidden]
  View captions_;                           // f32 [padded tokens of all, hidden]
  qwen3::Scratch encoder_;
  RefineScratch refiner_;  // in the same memory
};

}  // namespace nostos::zimage
