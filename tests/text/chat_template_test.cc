// Tests the chat template and truncation; equality with the reference is tested with the goldens.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace nostos {
namespace {

const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::load(NOSTOS_SOURCE_DIR "/tests/data/text/small_tokenizer");
  return tokenizer;
}

TEST(ChatPrompt, TakesThePromptAsItIs) {
  EXPECT_EQ(chat_prompt(""), "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat_prompt(" {} \n"), "<|im_start|>user\n {} \n<|im_end|>\n<|im_start|>assistant\n");
}

TEST(TokenizePrompt, CutsTheTemplatesEndFirst) {
  const PromptTokens whole = tokenize_prompt(small_tokenizer(), "a cat");
  EXPECT_FALSE(whole.truncated);
  EXPECT_EQ(whole.ids, small_tokenizer().encode(chat_prompt("a cat")));
  const auto count = static_cast<int64_t>(whole.ids.size());
  EXPECT_FALSE(tokenize_prompt(small_tokenizer(), "a cat", count).truncated);
  for (int64_t limit = 1; limit < count; ++limit) {
    const PromptTokens cut = tokenize_prompt(small_tokenizer(), "a cat", limit);
    EXPECT_TRUE(cut.truncated);
    EXPECT_EQ(cut.ids, std::vector<int32_t>(whole.ids.begin(), whole.ids.begin() + limit));
  }
  const PromptTokens huge = tokenize_prompt(small_tokenizer(), std::string(100'000, '7'));
  EXPECT_TRUE(huge.truncated);
  EXPECT_EQ(huge.ids.size(), 512u);
}

TEST(TokenizePrompt, RejectsALimitWithoutRoom) {
  for (const int64_t limit : {int64_t{0}, int64_t{-1}}) {
    try {
      tokenize_prompt(small_tokenizer(), "a", limit);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
      EXPECT_EQ(std::string(error.what()), fmt::format("the limit of {} prompt tokens must be at least 1", limit));
    }
  }
}

}  // namespace
}  // namespace nostos
