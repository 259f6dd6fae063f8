// Tests the mending of invalid UTF-8 and normalization form C.
#include "text/utf8.h"

#include <gtest/gtest.h>

#include <chrono>

namespace nostos {
namespace {

using std::string_literals::operator""s;

constexpr const char* kBad = "\uFFFD";

std::string times(int count, const std::string& text) {
  std::string repeated;
  for (int i = 0; i < count; ++i) repeated += text;
  return repeated;
}

TEST(ReplaceInvalidUtf8, LeavesValidTextAlone) {
  for (const std::string& text :
       {""s, "a"s, "a\0b"s, "\u007F\u0080\u07FF\u0800\uD7FF\uE000\uFFFF"s, "\U00010000\U0010FFFF"s}) {
    EXPECT_EQ(replace_invalid_utf8(text), text);
  }
}

// The expected counts are those of Python's bytes.decode("utf-8", "replace").
TEST(ReplaceInvalidUtf8, ReplacesEachMaximalInvalidSequenceOnce) {
  const std::pair<std::string, int> cases[] = {
      {"\x80", 1},              // a continuation alone
      {"\xFF", 1},              // no lead byte
      {"\xC0\xAF", 2},          // overlong: C0 can begin nothing
      {"\xE0\x80\xAF", 3},      // overlong: 80 may not follow E0
      {"\xF0\x80\x80\x80", 4},  // overlong
      {"\xED\xA0\x80", 3},      // a surrogate
      {"\xF4\x90\x80\x80", 4},  // above U+10FFFF
      {"\xC3", 1},              // cut short
      {"\xE2\x82", 1},          // cut short after two of three bytes
      {"\xF0\x9F\x98", 1},      // cut short after three of four bytes
      {"\xF1\x80\xE2\x82", 2},  // one cut short by the next
      {"\xF8\x88\x80\x80\x80", 5},
  };
  for (const auto& [bytes, count] : cases) {
    EXPECT_EQ(replace_invalid_utf8("<" + bytes + ">"), "<" + times(count, kBad) + ">") << testing::PrintToString(bytes);
    EXPECT_EQ(replace_invalid_utf8(bytes), times(count, kBad)) << testing::PrintToString(bytes);
    EXPECT_EQ(replace_invalid_utf8(bytes + "é"), times(count, kBad) + "é") << testing::PrintToString(bytes);
  }
}

TEST(NormalizeNfc, ComposesReordersAndExcludes) {
  EXPECT_EQ(normalize_nfc(""), "");
  EXPECT_EQ(normalize_nfc("plain"), "plain");
  EXPECT_EQ(normalize_nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(normalize_nfc("\u212B"), "\u00C5");                // a singleton
  EXPECT_EQ(normalize_nfc("a\u0301\u0327"), "\u00E1\u0327");   // cedilla (202) before acute (230), a + acute composes
  EXPECT_EQ(normalize_nfc("q\u0301\u0323"), "q\u0323\u0301");  // reordered, nothing composes
  EXPECT_EQ(normalize_nfc("a\u0301\u0301"), "\u00E1\u0301");   // the second acute is blocked
  EXPECT_EQ(normalize_nfc("\u1100\u1161\u11A8"), "\uAC01");    // Hangul
  EXPECT_EQ(normalize_nfc("\uAC00\u11A8"), "\uAC01");
  EXPECT_EQ(normalize_nfc("\u0958"), "\u0915\u093C");  // a composition exclusion
  EXPECT_EQ(normalize_nfc("\u0344"), "\u0308\u0301");  // a non-starter decomposition
  EXPECT_EQ(normalize_nfc("a\0e\u0301"s), "a\0\u00E9"s);
}

TEST(NormalizeNfc, LeavesMarksThatTheLibraryDoesNotKnow) {
  EXPECT_EQ(normalize_nfc("a\u08CA\u0301"), "a\u08CA\u0301");
  EXPECT_EQ(normalize_nfc("\U00011935\U00011930"), "\U00011935\U00011930");
  EXPECT_EQ(normalize_nfc("\U00011938"), "\U00011938");
}

TEST(NormalizeNfc, LongRunsOfMarksTakeNoQuadraticTime) {
  const int count = 250'000;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(normalize_nfc("a" + times(count, "\u0301\u0316")),
            "\u00E1" + times(count, "\u0316") + times(count - 1, "\u0301"));
  // 20 ms; sorting pair by pair would take minutes.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

}  // namespace
}  // namespace nostos
