// Tests that caches keep what is used, and no more than they may.
#include "base/lru_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>

namespace nostos {
namespace {

using Words = LruCache<std::string, std::unique_ptr<int>>;

TEST(LruCache, ForgetsWhatWasNotUsedForTheLongestTime) {
  Words words(2);
  words.insert("one", std::make_unique<int>(1));
  words.insert("two", std::make_unique<int>(2));
  ASSERT_NE(words.find(std::string_view("one")), nullptr);
  words.insert("three", std::make_unique<int>(3));
  EXPECT_EQ(words.find("two"), nullptr);
  ASSERT_NE(words.find("one"), nullptr);
  EXPECT_EQ(**words.find("one"), 1);
  EXPECT_EQ(**words.find("three"), 3);
  EXPECT_EQ(words.size(), 2u);
}

TEST(LruCache, ValuesStayInTheirPlaces) {
  Words words(3);
  const std::unique_ptr<int>* const first = &words.insert("first", std::make_unique<int>(1));
  words.insert("second", std::make_unique<int>(2));
  words.insert("third", std::make_unique<int>(3));
  words.find("second");
  EXPECT_EQ(words.find("first"), first);
}

TEST(LruCache, CountsCosts) {
  Words words(10);
  words.insert("four", std::make_unique<int>(4), 4);
  words.insert("five", std::make_unique<int>(5), 5);
  words.insert("three", std::make_unique<int>(3), 3);
  EXPECT_EQ(words.find("four"), nullptr);
  EXPECT_EQ(words.size(), 2u);
  words.insert("too much", std::make_unique<int>(11), 11);
  EXPECT_EQ(words.size(), 1u);
  ASSERT_NE(words.find("too much"), nullptr);
  words.insert("ten", std::make_unique<int>(10), 10);
  EXPECT_EQ(words.size(), 1u);
}

TEST(LruCache, IsTrimmedWhenAsked) {
  Words words(100);
  for (const char* word : {"one", "two", "three", "four"}) words.insert(word, std::make_unique<int>(1));
  words.find("one");
  words.trim(2);
  EXPECT_NE(words.find("one"), nullptr);
  EXPECT_NE(words.find("four"), nullptr);
  EXPECT_EQ(words.size(), 2u);
  words.trim(0);
  EXPECT_EQ(words.size(), 1u);
}

TEST(LruCache, AKeyHasOneValue) {
  Words words(4);
  words.insert("a", std::make_unique<int>(1), 3);
  words.insert("b", std::make_unique<int>(2), 1);
  words.insert("a", std::make_unique<int>(3), 3);
  EXPECT_EQ(words.size(), 2u);
  EXPECT_EQ(**words.find("a"), 3);
  words.erase("a");
  EXPECT_EQ(words.find("a"), nullptr);
  words.insert("c", std::make_unique<int>(4), 3);
  EXPECT_EQ(words.size(), 2u);
  words.clear();
  EXPECT_EQ(words.size(), 0u);
  EXPECT_EQ(words.find("c"), nullptr);
}

}  // namespace
}  // namespace nostos
