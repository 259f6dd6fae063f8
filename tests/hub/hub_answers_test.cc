// Tests reading what a hub answers.
#include "hub/hub_answers.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace nostos {
namespace {

const std::string kSha1(40, 'a'), kSha256(64, 'b');

std::string entry(const std::string& path, const std::string& oid = kSha1) {
  return fmt::format(R"({{"type":"file","oid":"{}","size":3,"path":"{}"}})", oid, path);
}

/// \return why the listing is refused.
std::string refusal(const std::string& text) {
  try {
    parse_hub_listing(text, "answer");
    return "taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    return error.what();
  }
}

TEST(HubAnswers, AListingGivesFilesAndTheirChecksums) {
  const std::string large = fmt::format(
       R"({{"type":"file","oid":"{}","size":134,"lfs":{{"oid":"{}","size":5000000000,"pointerSize":134}},)"
      R"("path":"a/w"}})",
      kSha1, kSha256);
  const std::vector<HubFile> files = parse_hub_listing(
      "[" + entry("a b/c.json") + R"(,{"type":"directory","oid":"x","size":0,"path":"a"},)" + large + "]", "");
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].path, "a b/c.json");
  EXPECT_EQ(files[0].bytes, 3u);
  EXPECT_EQ(files[0].digest, kSha1);
  EXPECT_FALSE(files[0].is_large);
  EXPECT_EQ(files[1].path, "a/w");
  EXPECT_EQ(files[1].bytes, 5'000'000'000u);
  EXPECT_EQ(files[1].digest, kSha256);
  EXPECT_TRUE(files[1].is_large);
  EXPECT_TRUE(parse_hub_listing("[]", "").empty());
}

TEST(HubAnswers, SmallFilesHaveGitsChecksum) {
  HubFile file{"a", 6, "", false};
  Digest digest = file.begin_digest();
  digest.update(std::as_bytes(std::span(std::string_view("hello\n"))));
  EXPECT_EQ(digest.finish(), "ce013625030ba8dba906f756967f9e9ca394464a");  // git hash-object
}

TEST(HubAnswers, PathsThatLeadOutOfTheFolderAreRefused) {
  for (const char* path : {"", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "./a", R"(a\u0000b)", R"(a\nb)"})
    EXPECT_NE(refusal("[" + entry(path) + "]").find("path"), std::string::npos) << path;
  EXPECT_NE(refusal("[" + entry(std::string(300, 'a')) + "]").find("path"), std::string::npos);
  EXPECT_NE(refusal("[" + entry("a") + "," + entry("a") + "]").find("two files"), std::string::npos);
}

TEST(HubAnswers, WhatIsNoChecksumIsRefused) {
  for (const std::string& oid :
       {std::string(), std::string(39, 'a'), std::string(40, 'A'), "../" + std::string(37, 'a')})
    EXPECT_NE(refusal("[" + entry("a", oid) + "]").find("oid"), std::string::npos) << oid;
}

TEST(HubAnswers, WhatIsNoListingIsRefused) {
  for (const char* text : {"", "{}", "null", "[1]", "[{}]", R"([{"type":"file"}])", "[],\"files\":[]", "[]}"})
    EXPECT_NE(refusal(text), "taken") << text;
  EXPECT_NE(refusal(fmt::format(R"([{{"type":"file","oid":"{}","size":-1,"path":"a"}}])", kSha1)).find("size"),
            std::string::npos);
}

TEST(HubAnswers, TheCommitOfARevision) {
  EXPECT_EQ(parse_hub_commit(fmt::format(R"({{"sha":"{}"}})", kSha1), ""), kSha1);
  for (const char* text : {"{}", R"({"sha":"main"})", R"({"sha":1})", "[]", ""})
    EXPECT_THROW(parse_hub_commit(text, ""), Error);
}

TEST(HubAnswers, TheNextPage) {
  EXPECT_EQ(parse_next_page(R"(<https://h/x?a=1&b=2>; rel="next")"), "https://h/x?a=1&b=2");
  EXPECT_EQ(parse_next_page(R"(<p>; rel="prev", <n>; rel="next")"), "n");
  for (const char* link : {"", "<", "<a", "a>", R"(<p>; rel="prev")", R"(rel="next")"})
    EXPECT_EQ(parse_next_page(link), "") << link;
}

TEST(HubAnswers, SecondsToWait) {
  EXPECT_EQ(parse_retry_after("120"), 120);
  EXPECT_EQ(parse_retry_after(" 0 "), 0);
  for (const char* value : {"", "-1", "1.5", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "99999999999999999999"})
    EXPECT_EQ(parse_retry_after(value), std::nullopt) << value;
}

}  // namespace
}  // namespace nostos
