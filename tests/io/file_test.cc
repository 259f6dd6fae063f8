// Tests whole-file reading and atomic writing.
#include "io/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <vector>

#include "io/gguf.h"
#include "io/mapped_file.h"
#include "io/test_files.h"

namespace nostos {
namespace {

class FileTest : public FolderTest {};

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST_F(FileTest, ReadsWhatIsThere) {
  EXPECT_EQ(read_file(write("empty", ""), 0), "");
  EXPECT_EQ(read_file(write("few", std::string("a\0b", 3)), 3), std::string("a\0b", 3));
  const std::string large(3'000'001, 'x');
  EXPECT_EQ(read_file(write("large", large), large.size()), large);
}

TEST_F(FileTest, ReadErrorsNameTheFile) {
  expect_error([&] { read_file(folder_ / "absent", 10); }, ErrorKind::invalid_input, {"absent", "No such file"});
  expect_error([&] { read_file(folder_, 10, ErrorKind::model); }, ErrorKind::model, {folder_.string(), "directory"});
  expect_error([&] { read_file(write("big", "12345"), 4); }, ErrorKind::invalid_input,
               {"big", "larger than the 4 bytes"});
}

TEST_F(FileTest, ReadsNothingButFilesAndWaitsForNoPipe) {
  const auto pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error([&] { read_file(pipe, 10); }, ErrorKind::invalid_input, {pipe.string(), "it is no file but a pipe"});
  expect_error([&] { MappedFile mapped(pipe); }, ErrorKind::model, {pipe.string(), "it is no file but a pipe"});
  EXPECT_FALSE(is_gguf(pipe));
  expect_error([&] { read_file("/dev/zero", 100'000); }, ErrorKind::invalid_input, {"it is no file but a device"});
  expect_error([&] { MappedFile mapped("/dev/zero"); }, ErrorKind::model, {"it is no file but a device"});
  std::filesystem::create_symlink("loop", folder_ / "loop");
  expect_error([&] { read_file(folder_ / "loop", 10); }, ErrorKind::invalid_input, {"loop", "symbolic links"});
}

TEST_F(FileTest, WritesAndReplaces) {
  const auto file = folder_ / "out.bin";
  write_file_atomically(file, bytes_of("first"));
  EXPECT_EQ(slurp(file), "first");
  write_file_atomically(file, bytes_of(""));
  EXPECT_EQ(slurp(file), "");
  EXPECT_EQ(entries(folder_), 1);
  struct stat status;
  ASSERT_EQ(::stat(file.c_str(), &status), 0);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  EXPECT_EQ(status.st_mode & 0777, 0666 & ~mask) << "as any program's new file";
}

TEST_F(FileTest, NothingShowsBeforeCommit) {
  const auto file = write("out.bin", "old");
  {
    AtomicFile out(file);
    out.write("new");
    EXPECT_EQ(slurp(file), "old");
  }
  EXPECT_EQ(slurp(file), "old");
  EXPECT_EQ(entries(folder_), 1);
}

TEST_F(FileTest, FollowsSymbolicLinks) {
  const auto real = write("real.bin", "old");
  const auto link = folder_ / "link.bin";
  std::filesystem::create_symlink(real, link);
  write_file_atomically(link, bytes_of("new"));
  EXPECT_EQ(slurp(real), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(link));
}

TEST_F(FileTest, FollowsSymbolicLinksToWhatIsNotThereYet) {
  std::filesystem::create_directory(folder_ / "inner");
  const auto link = folder_ / "link.bin", second = folder_ / "second.bin", lost = folder_ / "lost.bin";
  std::filesystem::create_symlink("inner/new.bin", link);
  std::filesystem::create_symlink("link.bin", second);
  std::filesystem::create_symlink("absent/new.bin", lost);
  EXPECT_EQ(require_writable(second), std::filesystem::canonical(folder_) / "inner" / "new.bin");
  write_file_atomically(second, bytes_of("new"));
  EXPECT_EQ(slurp(folder_ / "inner" / "new.bin"), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_TRUE(std::filesystem::is_symlink(second));
  expect_error([&] { require_writable(lost); }, ErrorKind::invalid_input, {"lost.bin", "does not exist"});
}

TEST_F(FileTest, FullDeviceIsAnInternalErrorAndTheDeviceStays) {
  const auto link = folder_ / "full.png";
  std::filesystem::create_symlink("/dev/full", link);
  EXPECT_NO_THROW(require_writable(link));
  expect_error([&] { write_file_atomically(link, bytes_of("x")); }, ErrorKind::internal,
               {"/dev/full", "no space left"});
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
}

TEST_F(FileTest, FailedWriteKeepsTheOldFileAndLeavesNoOther) {
  const auto file = write("out.bin", "old");
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::vector<uint8_t> bytes(100'000);
  expect_error([&] { write_file_atomically(file, bytes); }, ErrorKind::internal, {"out.bin", "File too large"});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(slurp(file), "old");
  EXPECT_EQ(entries(folder_), 1);
}

TEST_F(FileTest, UnwritablePlacesAreFoundBeforeAndWhenWriting) {
  write("plain", "x");
  const std::vector<std::pair<std::filesystem::path, std::string_view>> cases = {
      {"", "without a name"},
      {folder_ / "absent" / "out.png", "does not exist"},
      {folder_ / "plain" / "out.png", "does not exist"},
      {folder_, "folder"},
      {folder_ / "", "folder"},
      {folder_ / std::string(300, 'a'), "too long"},
      {"/proc/out.png", "/proc/out.png"}};
  for (const auto& [path, part] : cases) {
    expect_error([&] { require_writable(path); }, ErrorKind::invalid_input, {part});
    expect_error([&] { write_file_atomically(path, {}); }, ErrorKind::invalid_input, {part});
  }
  EXPECT_EQ(entries(folder_), 1);
}

TEST_F(FileTest, RequireWritableLeavesNothingAndTouchesNothing) {
  const auto file = write("there.png", "old");
  EXPECT_NO_THROW(require_writable(file));
  EXPECT_NO_THROW(require_writable(folder_ / "new.png"));
  EXPECT_EQ(slurp(file), "old");
  EXPECT_EQ(entries(folder_), 1);
  if (::geteuid() == 0) return;  // root may write anything
  ::chmod(file.c_str(), 0444);
  expect_error([&] { require_writable(file); }, ErrorKind::invalid_input, {"there.png", "ermission"});
  ::chmod(folder_.c_str(), 0555);
  expect_error([&] { require_writable(folder_ / "new.png"); }, ErrorKind::invalid_input, {"new.png", "ermission"});
  ::chmod(folder_.c_str(), 0755);
}

}  // namespace
}  // namespace nostos
