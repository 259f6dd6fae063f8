// Tests that a prompt's features depend on the prompt alone: neither on its pads nor on what is encoded beside it.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "models/qwen3/encoder.h"
#include "ops/linear.h"

namespace nostos::test {
namespace {

constexpr int64_t kMostRows = 112, kTokens = 19;

class EncoderPads : public testing::TestWithParam<std::pair<const char*, DType>> {
 protected:
  void SetUp() override {
    const auto& [model, dtype] = GetParam();
    if (dtype == DType::bf16 && !ops::has_bf16_products(ctx_)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
    const auto folder = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/klein_tiny" / model / "text_encoder";
    qwen3::Config config = qwen3::load_config(JsonConfig::load(folder / "config.json"));
    config.feature_layers = {9, 18, 27};
    config.pads = true;
    const std::shared_ptr<const WeightStore> store = WeightStores().open(folder);
    const char* prefix = store->info("model.embed_tokens.weight") != nullptr ? "model." : "";
    WeightBuilder builder(
        ctx_, std::make_shared<StoreSource>(store, CheckpointNames{.prefix = prefix}, StoreSource::Mode::load), dtype);
    qwen3::Weights weights = qwen3::build_weights(config, builder);
    encoder_ = std::make_unique<qwen3::Encoder>(ctx_, config, std::move(weights), kMostRows);
  }

  /// \return the features of prompts, each of the token ids 1, 2, ... times `step`, then pads of the id 0.
  Tensor encode(std::span<const qwen3::PromptRows> prompts, int32_t step = 3) {
    std::vector<std::vector<int32_t>> ids;
    std::vector<std::span<const int32_t>> rows;
    int64_t all = 0;
    for (const qwen3::PromptRows& prompt : prompts) {
      std::vector<int32_t>& made = ids.emplace_back(static_cast<size_t>(prompt.all()));
      for (int64_t i = 0; i < prompt.tokens; ++i) made[static_cast<size_t>(i)] = static_cast<int32_t>(i + 1) * step;
      all += prompt.all();
    }
    rows.assign(ids.begin(), ids.end());
    const auto take = [&](Arena& arena) {
      return qwen3::Scratch::take(arena, encoder_->config(), prompts, GetParam().second);
    };
    Arena measure{Device{}};
    take(measure);
    Arena arena({}, measure.peak_bytes());
    const qwen3::Scratch scratch = take(arena);
    Tensor features({}, DType::f32, {all, encoder_->config().feature_width()});
    encoder_->take_ids(ctx_, rows, scratch);
    encoder_->encode(ctx_, prompts, scratch, features);
    return features;
  }

  /// Expects `rows` of a from a_begin and of b from b_begin to be the same bits.
  void expect_same(const Tensor& a, int64_t a_begin, const Tensor& b, int64_t b_begin, int64_t rows) {
    const ConstView x = a.view().rows(a_begin, rows), y = b.view().rows(b_begin, rows);
    EXPECT_EQ(std::memcmp(x.bytes(), y.bytes(), x.size_in_bytes()), 0) << rows << " rows from " << a_begin;
  }

  Context ctx_{{}, 2};
  std::unique_ptr<qwen3::Encoder> encoder_;
};

INSTANTIATE_TEST_SUITE_P(Models, EncoderPads,
                         testing::Values(std::pair{"distilled", DType::f32}, std::pair{"distilled", DType::bf16},
                                         std::pair{"base", DType::f32}, std::pair{"base", DType::bf16}),
                         [](const auto& info) {
                           return info.param.first + ("_" + std::string(name(info.param.second)));
                         });

TEST_P(EncoderPads, DoNotChangeTheTokensBeforeThem) {
  const qwen3::PromptRows alone{.tokens = kTokens};
  const Tensor wanted = encode({&alone, 1});
  std::vector<Tensor> padded;
  for (const int64_t pads : {int64_t{1}, int64_t{13}, kMostRows - kTokens}) {
    const qwen3::PromptRows rows{kTokens, pads};
    padded.push_back(encode({&rows, 1}));
    expect_same(wanted, 0, padded.back(), 0, kTokens);
  }
  // A pad is the same with fewer or more of them behind it.
  expect_same(padded[0], kTokens, padded[2], kTokens, 1);
  expect_same(padded[1], kTokens, padded[2], kTokens, 13);
}

TEST_P(EncoderPads, PromptsBesideChangeNothing) {
  const std::vector<qwen3::PromptRows> prompts{{kTokens, 29}, {1, 47}, {48, 0}, {30, 70}, {kTokens, 29}};
  const Tensor together = encode(prompts);
  int64_t begin = 0;
  for (const qwen3::PromptRows& prompt : prompts) {
    expect_same(together, begin, encode({&prompt, 1}), 0, prompt.all());
    begin += prompt.all();
  }
}

// Each of the three features is of its own layer: they differ, and so do those of other tokens.
TEST_P(EncoderPads, PromptsDiffer) {
  const qwen3::PromptRows rows{kTokens, 5};
  const Tensor a = encode({&rows, 1}), b = encode({&rows, 1}, 4);
  const size_t hidden = static_cast<size_t>(encoder_->config().hidden), bytes = hidden * sizeof(float);
  for (int64_t row = 0; row < rows.all(); ++row) {
    const float* of_row = a.data<float>() + row * encoder_->config().feature_width();
    EXPECT_NE(std::memcmp(of_row, of_row + hidden, bytes), 0) << row;
    EXPECT_NE(std::memcmp(of_row + hidden, of_row + 2 * hidden, bytes), 0) << row;
    EXPECT_NE(std::memcmp(of_row, b.data<float>() + row * encoder_->config().feature_width(), bytes), 0) << row;
  }
}

}  // namespace
}  // namespace nostos::test
