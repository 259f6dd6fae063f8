// Tests checksums of pieces against the examples of FIPS 180-4.
#include "base/digest.h"

#include <gtest/gtest.h>

#include <string_view>
#include <utility>
#include <vector>

namespace nostos {
namespace {

std::string of(DigestKind kind, const std::vector<std::string_view>& pieces) {
  Digest digest(kind);
  for (const std::string_view piece : pieces) digest.update(std::as_bytes(std::span(piece)));
  return digest.finish();
}

TEST(Digest, HasTheStandardsExamplesHoweverTheyAreCut) {
  EXPECT_EQ(of(DigestKind::sha1, {}), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  for (const std::vector<std::string_view>& pieces :
       std::vector<std::vector<std::string_view>>{{"abc"}, {"a", "bc"}, {"", "ab", "", "c", ""}}) {
    EXPECT_EQ(of(DigestKind::sha1, pieces), "a9993e364706816aba3e25717850c26c9cd0d89d");
    EXPECT_EQ(of(DigestKind::sha256, pieces), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  }
}

TEST(Digest, MovesWithWhatItHasRead) {
  Digest first(DigestKind::sha256);
  first.update(std::as_bytes(std::span(std::string_view("ab"))));
  Digest second = std::move(first);
  second.update(std::as_bytes(std::span(std::string_view("c"))));
  EXPECT_EQ(second.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace nostos
