// Tests what a Z-Image model asks of memory, and the rows of its prompts.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "families/zimage/model.h"

namespace nostos {
namespace {

// The text encoder and what refines its features run one after the other.
TEST(ZImage, PassesOverPromptsShareMemory) {
  Context ctx({}, 1);
  const zimage::Model model(ctx, {std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/tiny/diffusers_test"});
  const std::vector<int64_t> lengths{40, 7};
  Arena encoder{Device{}}, refiner{Device{}}, both{Device{}};
  const std::vector<qwen3::PromptRows> rows{{.tokens = 40}, {.tokens = 7}};
  const std::vector<PromptLength> prompts{{40, 512}, {7, 512}};
  qwen3::Scratch::take(encoder, model.encoder_config(), rows, model.dtype());
  zimage::RefineScratch::take(refiner, model.transformer_config(), lengths, model.dtype());
  const auto encoding = model.take_prompts(both, prompts, View());
  const size_t kept = both.used_bytes();
  encoding->take_scratch(both);
  EXPECT_EQ(both.peak_bytes(), kept + std::max(encoder.peak_bytes(), refiner.peak_bytes()));
}

TEST(ZImage, AnEmbeddingHasTheRowsOfThePromptInWholeMultiples) {
  Context ctx({}, 1);
  const std::filesystem::path folder = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/tiny/diffusers_test";
  const zimage::Model model(ctx, {folder});
  for (const auto& [tokens, rows] : {std::pair{1, 32}, {32, 32}, {33, 64}}) {
    EXPECT_EQ(model.embedding_shape({tokens, 512})[0], rows) << tokens;
    EXPECT_EQ(zimage::read_shape({.files = folder, .synthetic = true}).prompt_rows(tokens, 512), rows) << tokens;
  }
}

}  // namespace
}  // namespace nostos
