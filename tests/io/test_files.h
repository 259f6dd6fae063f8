// Owns scratch folders and hand-made files for the tests of io.
#pragma once

#include <gtest/gtest.h>
#include <sys/fsuid.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace nostos {

/// A folder of its own for each test, removed afterwards.
class FolderTest : public testing::Test {
 protected:
  FolderTest() {
    const testing::TestInfo* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) / (std::string("nostos-") + info->test_suite_name() + "-" +
                                                           info->name() + "-" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~FolderTest() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write(const std::filesystem::path& name, std::string_view bytes) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return folder_ / name;
  }

  std::filesystem::path folder_;
};

inline std::string slurp(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Takes all permissions from a folder, and from this thread those that root has anyway.
class WithoutPermission {
 public:
  explicit WithoutPermission(std::filesystem::path folder) : folder_(std::move(folder)) {
    std::filesystem::permissions(folder_, std::filesystem::perms::none);
    constexpr uid_t kNobody = 65534;
    if (::geteuid() == 0) ::setfsuid(kNobody);
  }
  ~WithoutPermission() {
    if (::geteuid() == 0) ::setfsuid(0);
    std::filesystem::permissions(folder_, std::filesystem::perms::owner_all);
  }
  WithoutPermission(const WithoutPermission&) = delete;
  WithoutPermission& operator=(const WithoutPermission&) = delete;

 private:
  std::filesystem::path folder_;
};

/// \return how many entries a folder has.
inline long entries(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}

/// \return the bytes of a safetensors file with this header and data.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(static_cast<uint64_t>(header.size()) >> (8 * i) & 0xff);
  return bytes.append(header).append(data);
}

/// Expects `action` to throw an Error of `kind` whose message contains every one of `parts`.
inline void expect_error(const std::function<void()>& action, ErrorKind kind,
                         std::initializer_list<std::string_view> parts) {
  try {
    action();
    ADD_FAILURE() << "no error was thrown, expected one about " << *parts.begin();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string_view part : parts) {
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos)
          << error.what() << "\n lacks " << part;
    }
  }
}

}  // namespace nostos
