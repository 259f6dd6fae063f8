// Tests that a written folder is there whole or not at all.
#include "io/folder_writer.h"

#include <gtest/gtest.h>

#include <fstream>

#include "io/test_files.h"

namespace nostos {
namespace {

class FolderWriterTest : public FolderTest {
 protected:
  size_t entries() const {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()));
  }
};

TEST_F(FolderWriterTest, AppearsWhole) {
  const auto target = folder_ / "out";
  {
    FolderWriter writer(target, {});
    std::ofstream(writer.path() / "a") << "1";
    EXPECT_FALSE(std::filesystem::exists(target));
  }
  EXPECT_EQ(entries(), 0u) << "what is not committed vanishes";
  FolderWriter writer(target, {});
  std::ofstream(writer.path() / "a") << "2";
  writer.commit();
  EXPECT_EQ(slurp(target / "a"), "2");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FolderWriterTest, TakesANameWithASlashAtItsEnd) {
  FolderWriter writer(folder_ / "out" / "", {});
  std::ofstream(writer.path() / "a") << "1";
  writer.commit();
  EXPECT_EQ(slurp(folder_ / "out" / "a"), "1");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FolderWriterTest, ReplacesWhatMayBeReplaced) {
  const auto target = folder_ / "out";
  std::filesystem::create_directory(target);
  FolderWriter(target, {}).commit();  // an empty one
  std::ofstream(target / "a") << "old";
  expect_error([&] { FolderWriter(target, {}); }, ErrorKind::invalid_input, {"out", "is not empty"});
  FolderWriter writer(target, {"a", "b"});
  std::ofstream(writer.path() / "b") << "new";
  EXPECT_EQ(slurp(target / "a"), "old");
  writer.commit();
  EXPECT_FALSE(std::filesystem::exists(target / "a"));
  EXPECT_EQ(slurp(target / "b"), "new");
  std::ofstream(target / "c") << "kept";
  expect_error([&] { FolderWriter(target, {"a", "b"}); }, ErrorKind::invalid_input, {"'c'", "no part of a model"});
  EXPECT_EQ(slurp(target / "c"), "kept");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FolderWriterTest, SaysWhatIsInTheWay) {
  expect_error([&] { FolderWriter(write("file", "x"), {}); }, ErrorKind::invalid_input, {"no folder"});
  expect_error([&] { FolderWriter(folder_ / "absent" / "out", {}); }, ErrorKind::invalid_input, {"absent"});
}

}  // namespace
}  // namespace nostos
