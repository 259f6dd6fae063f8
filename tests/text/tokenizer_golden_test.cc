// Tests that token ids equal those of the Python libraries, with the goldens of tools/make_tokenizer_golden.py.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "text/chat_template.h"
#include "text/gguf_of_tokenizer.h"
#include "text/tokenizer.h"

namespace nostos {
namespace {

const std::filesystem::path kData = NOSTOS_SOURCE_DIR "/tests/data/text";
const std::filesystem::path kEmbeddedModel = NOSTOS_SOURCE_DIR "/models/mini";

/// Undoes the escapes \xHH of strings.txt.
std::string unescape(std::string_view line) {
  std::string bytes;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\\') {
      bytes += static_cast<char>(std::stoi(std::string(line.substr(i + 2, 2)), nullptr, 16));
      i += 3;
    } else {
      bytes += line[i];
    }
  }
  return bytes;
}

/// FNV-1a over whole ids.
uint64_t hash_of(const std::vector<int32_t>& ids) {
  uint64_t state = 0xcbf29ce484222325;
  for (const int32_t id : ids) state = (state ^ static_cast<uint64_t>(id)) * 0x100000001b3;
  return state;
}

std::string utf8(uint32_t c) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0)};
}

/// The same text as the tool's code_point_context().
std::string code_point_context(uint32_t code_point) {
  const std::string x = utf8(code_point);
  return "a" + x + "b !" + x + "!" + x + "7" + x + " " + x + "\n" + x + "\n'" + x + " a" + x + "\u0327\u0301" + x +
         "\u0327 \U00011935" + x;
}

struct Compared {
  int64_t strings = 0;
  int64_t blocks = 0;
  int64_t prompts = 0;
};

/// Compares `tokenizer` with every line of `golden_file`.
Compared compare(const Tokenizer& tokenizer, const std::filesystem::path& golden_file) {
  constexpr uint32_t kBlock = 1024;
  std::vector<std::string> strings;
  std::ifstream strings_file(kData / "strings.txt");
  for (std::string line; std::getline(strings_file, line);) strings.push_back(unescape(line));

  Compared compared;
  std::ifstream golden(golden_file);
  for (std::string line; std::getline(golden, line);) {
    std::istringstream fields(line);
    std::string kind;
    uint64_t hash = 0;
    std::size_t count = 0;
    fields >> kind;
    if (kind == "string") {
      const auto number = static_cast<std::size_t>(compared.strings++);
      const std::vector<int32_t> ids = tokenizer.encode(strings.at(number));
      fields >> std::hex >> hash >> std::dec >> count;
      std::vector<int32_t> expected;
      for (int32_t id; fields >> id;) expected.push_back(id);
      if (!expected.empty()) {
        EXPECT_EQ(ids, expected) << "string " << number << ": " << strings[number];
      }
      EXPECT_TRUE(ids.size() == count && hash_of(ids) == hash)
          << "string " << number << ": " << strings[number] << "\nids: " << testing::PrintToString(ids)
          << "\nexpected: tools/make_tokenizer_golden.py --explain " << number;
    } else if (kind == "block") {
      ++compared.blocks;
      uint32_t first = 0;
      fields >> std::hex >> first >> hash >> std::dec >> count;
      std::vector<int32_t> ids;
      for (uint32_t c = first; c < first + kBlock; ++c) {
        const auto more = tokenizer.encode(code_point_context(c));
        ids.insert(ids.end(), more.begin(), more.end());
      }
      EXPECT_TRUE(ids.size() == count && hash_of(ids) == hash) << "code points from U+" << std::hex << first;
    } else if (kind == "prompt") {
      ++compared.prompts;
      std::size_t number = 0;
      bool truncated = false;
      fields >> number >> std::hex >> hash >> std::dec >> count >> truncated;
      const PromptTokens prompt = tokenize_prompt(tokenizer, strings.at(number));
      EXPECT_EQ(prompt.truncated, truncated) << "prompt " << number;
      EXPECT_TRUE(prompt.ids.size() == count && hash_of(prompt.ids) == hash)
          << "prompt " << number << ": " << strings[number] << "\nids: " << testing::PrintToString(prompt.ids);
    } else {
      ADD_FAILURE() << "unknown line: " << line;
    }
    EXPECT_FALSE(fields.bad()) << line;
  }
  EXPECT_EQ(static_cast<std::size_t>(compared.strings), strings.size());
  return compared;
}

void expect_everything_compared(const Compared& compared) {
  EXPECT_GE(compared.strings, 5000);
  EXPECT_GE(compared.blocks, 200);
  EXPECT_GE(compared.prompts, 300);
}

TEST(TokenizerGolden, EmbeddedVocabulary) {
  expect_everything_compared(compare(Tokenizer::load(kEmbeddedModel / "tokenizer"), kData / "mini_ids.txt"));
}

TEST(TokenizerGolden, EmbeddedVocabularyFromVocabAndMerges) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "nostos_vocab_and_merges";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json"}) {
    std::filesystem::copy_file(kEmbeddedModel / "tokenizer" / name, folder / name);
  }
  expect_everything_compared(compare(Tokenizer::load(folder), kData / "mini_ids.txt"));
  std::filesystem::remove_all(folder);
}

/// \return the tokenizer of `folder` as a GGUF file holds it, whose embedding has `rows`.
Tokenizer through_gguf(const std::filesystem::path& folder, size_t rows) {
  return Tokenizer(gguf_tokenizer(GgufTokenizer(read_tokenizer_files(folder), rows).file().bytes()));
}

TEST(TokenizerGolden, EmbeddedVocabularyFromGguf) {
  expect_everything_compared(compare(through_gguf(kEmbeddedModel / "tokenizer", 4096), kData / "mini_ids.txt"));
}

TEST(TokenizerGolden, Qwen3Vocabulary) {
  const std::filesystem::path folder = NOSTOS_SOURCE_DIR "/build/qwen3-tokenizer";
  const std::string command =
      "python3 '" NOSTOS_SOURCE_DIR "/tools/fetch_qwen3_tokenizer.py' '" + folder.string() + "'";
  if (std::system(command.c_str()) != 0) {
    GTEST_SKIP() << "Qwen3's vocabulary is not at hand and could not be fetched: " << command;
  }
  const Tokenizer tokenizer = Tokenizer::load(folder);
  EXPECT_EQ(tokenizer.vocabulary_size(), 151'669);
  expect_everything_compared(compare(tokenizer, kData / "qwen3_ids.txt"));
  const Tokenizer gguf = through_gguf(folder, 151'936);
  EXPECT_EQ(gguf.vocabulary_size(), 151'669);
  expect_everything_compared(compare(gguf, kData / "qwen3_ids.txt"));
}

}  // namespace
}  // namespace nostos
