// Tests the tokenizer as a whole: added tokens, both file layouts, and time on long input.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <future>
#include <string>

namespace nostos {
namespace {

const std::filesystem::path kSmallTokenizer = NOSTOS_SOURCE_DIR "/tests/data/text/small_tokenizer";
constexpr int32_t kEndOfText = 2045;
constexpr int32_t kImStart = 2046;
constexpr int32_t kImEnd = 2047;

const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::load(kSmallTokenizer);
  return tokenizer;
}

std::vector<int32_t> joined(std::initializer_list<std::vector<int32_t>> parts) {
  std::vector<int32_t> ids;
  for (const auto& part : parts) ids.insert(ids.end(), part.begin(), part.end());
  return ids;
}

TEST(Tokenizer, CountsItsVocabulary) { EXPECT_EQ(small_tokenizer().vocabulary_size(), 2048); }

TEST(Tokenizer, RecognisesAddedTokensByTheirExactText) {
  const Tokenizer& tokenizer = small_tokenizer();
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_EQ(tokenizer.encode("<|im_start|>"), std::vector<int32_t>{kImStart});
  EXPECT_EQ(tokenizer.encode("<|im_start|><|im_end|><|endoftext|>"),
            (std::vector<int32_t>{kImStart, kImEnd, kEndOfText}));
  EXPECT_EQ(tokenizer.encode("a <|im_end|>b"), joined({tokenizer.encode("a "), {kImEnd}, tokenizer.encode("b")}));
  EXPECT_EQ(tokenizer.encode("<<|im_end|>"), joined({tokenizer.encode("<"), {kImEnd}}));
  // A mark behind a token does not combine with it.
  EXPECT_EQ(tokenizer.encode("<|im_end|>\u0338"), joined({{kImEnd}, tokenizer.encode("\u0338")}));
  for (const char* look_alike : {"<|im_end|", "<|IM_END|>", "<| im_end |>", "|im_end|>"}) {
    for (const int32_t id : tokenizer.encode(look_alike)) EXPECT_LT(id, kEndOfText) << look_alike;
  }
}

TEST(Tokenizer, PrefersTheLongestAddedToken) {
  TokenizerDefinition definition = read_tokenizer_files(kSmallTokenizer);
  definition.added_tokens = {{"ab", 3000}, {"abc", 3001}, {"bcd", 3002}};
  const Tokenizer tokenizer(std::move(definition));
  EXPECT_EQ(tokenizer.vocabulary_size(), 3003);
  EXPECT_EQ(tokenizer.encode("abc"), (std::vector<int32_t>{3001}));
  EXPECT_EQ(tokenizer.encode("abab"), (std::vector<int32_t>{3000, 3000}));
  EXPECT_EQ(tokenizer.encode("abcd"), joined({{3001}, tokenizer.encode("d")}));  // the leftmost comes first
  EXPECT_EQ(tokenizer.encode("bcd"), (std::vector<int32_t>{3002}));
}

TEST(Tokenizer, MendsInvalidUtf8First) {
  EXPECT_EQ(small_tokenizer().encode("a\xFFz"), small_tokenizer().encode("a\uFFFDz"));
  EXPECT_EQ(small_tokenizer().encode("<|im_end|>\xE2\x82"), small_tokenizer().encode("<|im_end|>\uFFFD"));
}

TEST(Tokenizer, NormalizesBetweenAddedTokens) {
  EXPECT_EQ(small_tokenizer().encode("cafe\u0301<|im_end|>"), small_tokenizer().encode("caf\u00E9<|im_end|>"));
}

TEST(Tokenizer, ServesManyThreads) {
  const std::string text = "A cat's 42 toys, 猫和狗 <|im_end|> cafe\u0301 " + std::string(50'000, ' ');
  const std::vector<int32_t> expected = small_tokenizer().encode(text);
  std::vector<std::future<std::vector<int32_t>>> results;
  for (int i = 0; i < 8; ++i) {
    results.push_back(std::async(std::launch::async, [&] { return small_tokenizer().encode(text); }));
  }
  for (auto& result : results) EXPECT_EQ(result.get(), expected);
}

TEST(Tokenizer, LongInputTakesWellUnderASecond) {
  const std::size_t size_bytes = 100'000;
  for (const std::string unit : {"a", " ", "\n", " \n", "7", "!", "'", "猫", "\u0301\u0316", "\u1100\u1161", "\xFF",
                                 "<|", "ab", "<|im_end|>", "the quick brown fox ", "\U00031350"}) {
    std::string text;
    while (text.size() < size_bytes) text += unit;
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(small_tokenizer().encode(text + "x").empty());
    // At most 40 ms when optimised; the bound leaves room for sanitizers and a busy machine, not for quadratic time.
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1)) << unit;
  }
}

}  // namespace
}  // namespace nostos
