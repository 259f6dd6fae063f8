// Tests that a tokenizer that is written is the tokenizer that was read.
#include "text/tokenizer_output.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "text/tokenizer_files.h"

namespace nostos {
namespace {

const std::filesystem::path kModels = std::filesystem::path(NOSTOS_SOURCE_DIR) / "models";

std::vector<std::pair<int32_t, std::string>> sorted(const std::vector<AddedToken>& tokens) {
  std::vector<std::pair<int32_t, std::string>> list;
  for (const AddedToken& token : tokens) list.emplace_back(token.id, token.content);
  std::ranges::sort(list);
  return list;
}

TEST(TokenizerOutput, IsReadAgainAsItWas) {
  const TokenizerDefinition definition = read_tokenizer_files(kModels / "mini" / "tokenizer");
  std::map<std::string, std::string> texts =
      tokenizer_texts(definition, {.chat_template = "{{ x }}", .end = "<|im_end|>", .pad = "<|endoftext|>"});
  ASSERT_EQ(texts.size(), 3u);
  const TokenizerDefinition again =
      parse_vocabulary_files({texts["vocab.json"], texts["merges.txt"], texts["tokenizer_config.json"]}, "again");
  EXPECT_EQ(again.vocabulary, definition.vocabulary);
  EXPECT_EQ(again.merges, definition.merges);
  EXPECT_EQ(again.pattern, definition.pattern);
  EXPECT_EQ(sorted(again.added_tokens), sorted(definition.added_tokens));
  EXPECT_FALSE(definition.added_tokens.empty());
  EXPECT_NE(texts["tokenizer_config.json"].find("{{ x }}"), std::string::npos);
}

}  // namespace
}  // namespace nostos
