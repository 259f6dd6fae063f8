// Tests error kinds and exit codes.
#include "base/error.h"

#include <gtest/gtest.h>

namespace nostos {
namespace {

TEST(Error, ExitCodesFollowTheDesign) {
  EXPECT_EQ(exit_code(ErrorKind::invalid_input), 2);
  EXPECT_EQ(exit_code(ErrorKind::model), 2);
  EXPECT_EQ(exit_code(ErrorKind::device), 2);
  EXPECT_EQ(exit_code(ErrorKind::out_of_memory), 3);
  EXPECT_EQ(exit_code(ErrorKind::device_lost), 1);
  EXPECT_EQ(exit_code(ErrorKind::peer_failed), 4);
  EXPECT_EQ(exit_code(ErrorKind::internal), 1);
  EXPECT_EQ(exit_code(ErrorKind::cancelled), 130);
}

TEST(Error, RequireThrowsOnlyWhenBroken) {
  EXPECT_NO_THROW(require(true, ErrorKind::model, "unused {}", 1));
  try {
    require(false, ErrorKind::model, "field '{}' is {}", "dim", 3);
    FAIL() << "require did not throw";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    EXPECT_STREQ(error.what(), "field 'dim' is 3");
  }
}

TEST(Error, CheckNamesThePlace) {
  try {
    check(false, "a thing");
    FAIL() << "check did not throw";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::internal);
    EXPECT_NE(std::string(error.what()).find("error_test.cc"), std::string::npos);
  }
}

}  // namespace
}  // namespace nostos
