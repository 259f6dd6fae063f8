// Tests the cutting of text into words.
#include "text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace nostos {
namespace {

using Words = std::vector<std::string_view>;

Words qwen2_words(std::string_view text) {
  static const PreTokenizer pre_tokenizer(kQwen2Pattern, "");
  return pre_tokenizer.split(text);
}

TEST(PreTokenizer, CutsAsQwen2Does) {
  EXPECT_EQ(qwen2_words(""), Words{});
  EXPECT_EQ(qwen2_words("A cat's 42 toys!\n"), (Words{"A", " cat", "'s", " ", "4", "2", " toys", "!\n"}));
  EXPECT_EQ(qwen2_words("I'LL it\u2019s it's"), (Words{"I", "'LL", " it", "\u2019s", " it", "'s"}));
  EXPECT_EQ(qwen2_words("it'ſ 's"), (Words{"it", "'ſ", " '", "s"}));  // the long s is an s in any case
  EXPECT_EQ(qwen2_words("a   b"), (Words{"a", "  ", " b"}));
  EXPECT_EQ(qwen2_words(" \n \n x "), (Words{" \n \n", " x", " "}));
  EXPECT_EQ(qwen2_words("猫，狗"), (Words{"猫", "，狗"}));
  EXPECT_EQ(qwen2_words("(a)\r\n\r\nb"), (Words{"(a", ")\r\n\r\n", "b"}));
}

TEST(PreTokenizer, ClassesCharactersAsTheLibraryDoes) {
  EXPECT_EQ(qwen2_words("a\u180Eb"), (Words{"a", "\u180Eb"}));  // no space since Unicode 6.3
  EXPECT_EQ(qwen2_words("!\u180E!"), (Words{"!\u180E!"}));
  EXPECT_EQ(qwen2_words("x\U00031350y"), (Words{"x\U00031350y"}));  // a letter since Unicode 15
  EXPECT_EQ(qwen2_words("!\uA7CB"), (Words{"!\uA7CB"}));            // a letter since Unicode 16
  EXPECT_EQ(qwen2_words("a\U00011F50\U00011F51"), (Words{"a", "\U00011F50", "\U00011F51"}));  // digits since Unicode 15
}

TEST(PreTokenizer, KeepsGapsAndEmptyMatchesCut) {
  EXPECT_EQ(PreTokenizer("b+", "").split("abbcb"), (Words{"a", "bb", "c", "b"}));
  EXPECT_EQ(PreTokenizer("x", "").split("abc"), (Words{"abc"}));
  EXPECT_EQ(PreTokenizer("b*", "").split("éab"), (Words{"é", "a", "b"}));
}

TEST(PreTokenizer, LongRunsExceedTheCompiledCodesStackAndStillMatch) {
  const std::string spaces(1'000'000, ' ');
  EXPECT_EQ(qwen2_words(spaces), (Words{spaces}));
  EXPECT_EQ(PreTokenizer("(?:a|b)+", "").split(std::string(100'000, 'a')).size(), 1u);
}

std::string message_of(const std::string& pattern, std::string_view text) {
  try {
    PreTokenizer(pattern, "some.json").split(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    return error.what();
  }
  return "no error";
}

TEST(PreTokenizer, NamesWhatIsWrongWithAPattern) {
  EXPECT_EQ(message_of("a(b", ""),
            "some.json: the pre-tokenizer's pattern is not valid at byte 3: missing closing parenthesis");
  EXPECT_EQ(message_of(std::string(5000, 'a'), ""),
            "some.json: the pre-tokenizer's pattern has 5000 bytes; at most 4096 are supported");
  EXPECT_EQ(message_of("\\C", ""),
            "some.json: the pre-tokenizer's pattern is not valid at byte 2: using \\C is disabled by the application");
}

TEST(PreTokenizer, GivesUpOnAPatternThatExplodes) {
  EXPECT_EQ(message_of("(a+)+$", std::string(200, 'a') + "b"),
            "some.json: matching the pre-tokenizer's pattern failed: match limit exceeded");
}

}  // namespace
}  // namespace nostos
