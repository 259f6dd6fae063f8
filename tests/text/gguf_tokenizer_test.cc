// Tests the tokenizer in the keys of a GGUF file: that it is the one of tokenizer.json, and that others are refused.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "base/error.h"
#include "io/gguf.h"
#include "text/gguf_of_tokenizer.h"
#include "text/tokenizer.h"

namespace nostos {
namespace {

const std::filesystem::path kData = NOSTOS_SOURCE_DIR "/tests/data/text";

void expect_equal(const TokenizerDefinition& got, const TokenizerDefinition& wanted) {
  EXPECT_EQ(got.pattern, wanted.pattern);
  EXPECT_EQ(got.vocabulary, wanted.vocabulary);
  EXPECT_EQ(got.merges, wanted.merges);
  ASSERT_EQ(got.added_tokens.size(), wanted.added_tokens.size());
  for (std::size_t i = 0; i < got.added_tokens.size(); ++i) {
    EXPECT_EQ(got.added_tokens[i].content, wanted.added_tokens[i].content);
    EXPECT_EQ(got.added_tokens[i].id, wanted.added_tokens[i].id);
  }
}

const TokenizerDefinition& small() {
  static const TokenizerDefinition definition = read_tokenizer_files(kData / "small_tokenizer");
  return definition;
}

/// \return the message of the error that the small tokenizer's file gives with `change` made to it.
std::string message_for(
    const std::function<void(GgufTokenizer&)>& change, const std::function<void(GgufBytes&)>& add = [](GgufBytes&) {}) {
  GgufTokenizer tokenizer(small(), 2048);
  change(tokenizer);
  GgufBytes file = tokenizer.file();
  add(file);
  try {
    Tokenizer(gguf_tokenizer(file.bytes()));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    return error.what();
  }
  return "no error";
}

void unchanged(GgufTokenizer&) {}

TEST(GgufTokenizer, EqualsTokenizerJsonAsLlamaCppsPackageWritesIt) {
  const GgufFile file(kData / "small_tokenizer.gguf");
  const TokenizerDefinition definition = parse_gguf_tokenizer(file.header(), file.path().string());
  expect_equal(definition, small());
  EXPECT_EQ(definition.file, file.path().string());
  const Tokenizer tokenizer(definition);
  EXPECT_EQ(tokenizer.vocabulary_size(), 2048) << "tokens that only fill the embedding up do not count";
  const Tokenizer reference(small());
  for (const char* text : {"<|im_start|>user\nA cat's caf\u00e9<|im_end|>", "[PAD2048]", "\u732b 42  \n", ""})
    EXPECT_EQ(tokenizer.encode(text), reference.encode(text)) << text;
}

TEST(GgufTokenizer, LeavesOutWhatFillsTheEmbeddingUp) {
  EXPECT_EQ(message_for(unchanged), "no error");
  GgufTokenizer padded(small(), 2100);
  padded.types[2060] = 4;  // as older converters wrote it
  expect_equal(gguf_tokenizer(padded.file().bytes()), small());
  padded.tokens[2060] = "<think>";
  EXPECT_EQ(Tokenizer(gguf_tokenizer(padded.file().bytes())).encode("<think>"), std::vector<int32_t>{2060});
}

TEST(GgufTokenizer, NamesWhatIsMissing) {
  const auto message = [](const GgufBytes& file) {
    try {
      gguf_tokenizer(file.bytes());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const auto missing = [](const char* key) {
    return fmt::format("t.gguf: the key 'tokenizer.ggml.{}' is missing, so the file holds no whole tokenizer", key);
  };
  GgufBytes file;
  EXPECT_EQ(message(file), missing("model"));
  file.text("tokenizer.ggml.model", "gpt2");
  EXPECT_EQ(message(file), missing("pre"));
  file.text("tokenizer.ggml.pre", "qwen2");
  EXPECT_EQ(message(file), missing("tokens"));
  file.texts("tokenizer.ggml.tokens", {"a"});
  EXPECT_EQ(message(file), missing("token_type"));
  file.integers("tokenizer.ggml.token_type", {1});
  EXPECT_EQ(message(file), missing("merges"));
  EXPECT_EQ(message(GgufBytes().integers("tokenizer.ggml.model", {1})),
            "t.gguf: the key 'tokenizer.ggml.model' is of another type than it must be");
}

TEST(GgufTokenizer, RefusesOtherTokenizers) {
  const auto unsupported = [](const char* key, const char* found, const char* supported) {
    return fmt::format(
        "t.gguf: the key 'tokenizer.ggml.{}' is '{}', which is not supported; only Qwen2 tokenizers are, with '{}' "
        "here",
        key, found, supported);
  };
  EXPECT_EQ(message_for([](GgufTokenizer& t) { t.model = "llama"; }), unsupported("model", "llama", "gpt2"));
  EXPECT_EQ(message_for([](GgufTokenizer& t) { t.pre = "llama-bpe"; }), unsupported("pre", "llama-bpe", "qwen2"));
  for (const char* option : {"add_bos_token", "add_eos_token", "add_space_prefix"}) {
    const auto with = [&](char value) {
      return message_for(unchanged, [&](GgufBytes& file) {
        file.key(std::string("tokenizer.ggml.") + option, GgufType::boolean, std::string(1, value));
      });
    };
    EXPECT_EQ(with('\0'), "no error");
    EXPECT_EQ(with('\1'), unsupported(option, "true", "false"));
  }
  EXPECT_EQ(message_for(unchanged, [](GgufBytes& file) { file.text("tokenizer.chat_template", "{{ anything }}"); }),
            "no error");
}

TEST(GgufTokenizer, RefusesWrongTokens) {
  EXPECT_EQ(message_for([](GgufTokenizer& t) { t.types.pop_back(); }),
            "t.gguf: the key 'tokenizer.ggml.tokens' has 2048 elements and 'tokenizer.ggml.token_type' 2047: they must "
            "have equally many, at most 2147483646");
  for (const int32_t type : {0, 2, 6, -1}) {
    EXPECT_EQ(
        message_for([&](GgufTokenizer& t) { t.types[7] = type; }),
        fmt::format("t.gguf: the key 'tokenizer.ggml.token_type' gives the token 7 ('(') the type {}; the tokens of "
                    "a Qwen2 tokenizer are normal (1), control (3), user-defined (4) or unused (5)",
                    type));
  }
  EXPECT_EQ(message_for([](GgufTokenizer& t) { t.tokens[2000] = "!"; }),
            "t.gguf: the key 'tokenizer.ggml.tokens' has the token '!' twice, as 0 and 2000");
  EXPECT_EQ(message_for([](GgufTokenizer& t) { t.tokens[2046] = ""; }),
            "t.gguf: the key 'tokenizer.ggml.tokens' has an empty text for the added token 2046");
  EXPECT_EQ(message_for([](GgufTokenizer& t) { t.tokens[2046] = "<|im_end|>"; }),
            "t.gguf: the added token '<|im_end|>' is listed twice");
  EXPECT_EQ(message_for([](GgufTokenizer& t) { t.tokens[2046] = "!"; }),
            "t.gguf: the added token '!' has the id 2046, but the vocabulary gives it 0");
  EXPECT_EQ(
      message_for([](GgufTokenizer& t) { t.types[0] = 5; }),
      "t.gguf: the vocabulary has no token '!' for byte 0x21; a byte-level vocabulary has one for each of the 256 "
      "bytes");
}

TEST(GgufTokenizer, RefusesWrongMerges) {
  for (const char* merge : {"", "a", "a b c", " b", "a ", " "}) {
    EXPECT_EQ(
        message_for([&](GgufTokenizer& t) { t.merges[4] = merge; }),
        fmt::format("t.gguf: element 4 of the key 'tokenizer.ggml.merges' is '{}', must be two tokens with a space "
                    "between",
                    merge));
  }
  EXPECT_EQ(message_for([](GgufTokenizer& t) { t.merges[4] = "q q"; }),
            "t.gguf: merge 4 ('q' + 'q') names the token 'qq', which is not in the vocabulary");
  EXPECT_EQ(message_for([](GgufTokenizer& t) { t.merges[4] = t.merges[0]; }),
            "t.gguf: merge 4 ('Ġ' + 'a') is listed twice");
}

TEST(GgufTokenizer, RefusesKeysOfOtherTypes) {
  const auto message = [](const char* key) {
    GgufBytes file;
    file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
    const std::string name = std::string("tokenizer.ggml.") + key;
    for (const std::string other : {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
      if (other == name)
        file.integers(name, {1});
      else
        file.texts(other, {});
    }
    if (name == "tokenizer.ggml.token_type")
      file.texts(name, {"1"});
    else
      file.integers("tokenizer.ggml.token_type", {});
    try {
      gguf_tokenizer(file.bytes());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message("tokens"), "t.gguf: the key 'tokenizer.ggml.tokens' must be an array of strings");
  EXPECT_EQ(message("merges"), "t.gguf: the key 'tokenizer.ggml.merges' must be an array of strings");
  EXPECT_EQ(message("token_type"), "t.gguf: the key 'tokenizer.ggml.token_type' must be an array of integers");
}

}  // namespace
}  // namespace nostos
