// Tests the texts that are kept in a folder.
#include "io/folder_cache.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "io/test_files.h"

namespace nostos {
namespace {

class FolderCacheTest : public FolderTest {
 protected:
  const std::filesystem::path cache_folder_ = folder_ / "cache";
};

TEST_F(FolderCacheTest, GivesBackWhatWasKeptLast) {
  const auto cache = FolderCache::in(cache_folder_);
  EXPECT_FALSE(cache->load("kind/name"));
  cache->save("kind/name", "first");
  cache->save("kind/name", "second");
  cache->save("kind/other", "");
  EXPECT_EQ(FolderCache::in(cache_folder_)->load("kind/name"), "second");
  EXPECT_EQ(cache->load("kind/other"), "");
  EXPECT_FALSE(cache->load("kind"));
}

TEST_F(FolderCacheTest, TooLargeAFileIsNone) {
  const auto cache = FolderCache::in(cache_folder_);
  cache->save("large", std::string((1 << 20) + 1, 'x'));
  EXPECT_FALSE(cache->load("large"));
}

TEST_F(FolderCacheTest, NoFolderIsNoCache) { EXPECT_EQ(FolderCache::in(""), nullptr); }

TEST_F(FolderCacheTest, WhereNothingCanBeKeptNothingFails) {
  std::ofstream(cache_folder_) << "a file where the folder would be";
  const auto cache = FolderCache::in(cache_folder_);
  cache->save("kind/name", "text");
  EXPECT_FALSE(cache->load("kind/name"));
}

}  // namespace
}  // namespace nostos
