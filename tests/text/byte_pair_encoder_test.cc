// Tests byte-pair merging against a plain quadratic implementation, and its checks of the merge table.
#include "text/byte_pair_encoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/error.h"

namespace nostos {
namespace {

/// The 256 byte tokens, with id = byte, in GPT-2's alphabet.
Vocabulary byte_vocabulary() {
  Vocabulary vocabulary;
  int substitute = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int c = printable ? byte : substitute++;
    const std::string text = c < 0x80
                                 ? std::string{static_cast<char>(c)}
                                 : std::string{static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    vocabulary.emplace(text, byte);
  }
  return vocabulary;
}

std::vector<int32_t> encode(const BytePairEncoder& encoder, std::string_view word) {
  std::vector<int32_t> ids;
  encoder.encode(word, ids);
  return ids;
}

std::string message_of(const Vocabulary& vocabulary, const MergeList& merges) {
  try {
    BytePairEncoder encoder(vocabulary, merges, "some.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    return error.what();
  }
  return "no error";
}

TEST(BytePairEncoder, MapsEveryByte) {
  const BytePairEncoder encoder(byte_vocabulary(), {}, "");
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(encode(encoder, std::string(1, static_cast<char>(byte))), std::vector<int32_t>{byte});
  }
  EXPECT_TRUE(encode(encoder, "").empty());
}

TEST(BytePairEncoder, MergesLowestRankThenLeftmost) {
  Vocabulary vocabulary = byte_vocabulary();
  vocabulary.insert({{"bc", 300}, {"ab", 301}, {"aa", 302}, {"aabc", 303}, {"aaa", 304}});
  const MergeList merges = {{"b", "c"}, {"a", "b"}, {"a", "a"}, {"aa", "bc"}, {"aa", "a"}};
  const BytePairEncoder encoder(vocabulary, merges, "");
  EXPECT_EQ(encode(encoder, "abc"), (std::vector<int32_t>{'a', 300}));
  EXPECT_EQ(encode(encoder, "ab"), (std::vector<int32_t>{301}));
  EXPECT_EQ(encode(encoder, "aaa"), (std::vector<int32_t>{304}));
  EXPECT_EQ(encode(encoder, "aaaa"), (std::vector<int32_t>{302, 302}));
  EXPECT_EQ(encode(encoder, "aabc"), (std::vector<int32_t>{303}));
  EXPECT_EQ(encode(encoder, "aaabc"), (std::vector<int32_t>{304, 300}));
}

TEST(BytePairEncoder, AppendsToWhatIsThere) {
  const BytePairEncoder encoder(byte_vocabulary(), {}, "");
  std::vector<int32_t> ids = {7};
  encoder.encode("a", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{7, 'a'}));
}

TEST(BytePairEncoder, EqualsThePlainAlgorithm) {
  std::mt19937 random(1);
  const auto draw = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  for (int round = 0; round < 20; ++round) {
    Vocabulary vocabulary = byte_vocabulary();
    MergeList merges;
    std::vector<std::string> tokens = {"a", "b", "c"};
    while (merges.size() < 40) {
      std::pair<std::string, std::string> merge = {tokens[draw(tokens.size())], tokens[draw(tokens.size())]};
      const std::string merged = merge.first + merge.second;
      if (merged.size() > 8 || std::find(merges.begin(), merges.end(), merge) != merges.end()) continue;
      if (vocabulary.emplace(merged, static_cast<int32_t>(vocabulary.size())).second) tokens.push_back(merged);
      merges.push_back(merge);
    }
    const BytePairEncoder encoder(vocabulary, merges, "");
    for (int i = 0; i < 200; ++i) {
      std::string word;
      for (std::size_t n = draw(30); n > 0; --n) word += "abc"[draw(3)];
      std::vector<std::string> symbols;
      for (const char c : word) symbols.emplace_back(1, c);
      for (bool merged = true; merged;) {
        merged = false;
        for (const auto& [left, right] : merges) {
          for (std::size_t k = 0; k + 1 < symbols.size() && !merged; ++k) {
            if (symbols[k] != left || symbols[k + 1] != right) continue;
            symbols[k] += right;
            symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(k) + 1);
            merged = true;
          }
          if (merged) break;
        }
      }
      std::vector<int32_t> expected;
      for (const std::string& symbol : symbols) expected.push_back(vocabulary.at(symbol));
      ASSERT_EQ(encode(encoder, word), expected) << word;
    }
  }
}

TEST(BytePairEncoder, NamesWhatDoesNotFit) {
  Vocabulary vocabulary = byte_vocabulary();
  EXPECT_EQ(message_of(vocabulary, {{"a", "b"}}),
            "some.json: merge 0 ('a' + 'b') names the token 'ab', which is not in the vocabulary");
  vocabulary.emplace("ab", 300);
  EXPECT_EQ(message_of(vocabulary, {{"a", "b"}}), "no error");
  EXPECT_EQ(message_of(vocabulary, {{"a", "b"}, {"a", "b"}}), "some.json: merge 1 ('a' + 'b') is listed twice");
  EXPECT_EQ(message_of(vocabulary, {{"a", "b"}, {"", "ab"}}),
            "some.json: merge 1 ('' + 'ab') names the token '', which is not in the vocabulary");
  vocabulary.erase("Ġ");
  EXPECT_EQ(
      message_of(vocabulary, {}),
      "some.json: the vocabulary has no token 'Ġ' for byte 0x20; a byte-level vocabulary has one for each of the 256 "
      "bytes");
}

}  // namespace
}  // namespace nostos
