// Tests how flags read numbers, and what users are told of their prompts.
#include "apps/cli/flags.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <system_error>

#include "apps/cli/config_file.h"
#include "apps/cli/error_report.h"
#include "base/error.h"

namespace nostos::cli {
namespace {

struct Command {
  CLI::App app{"test", "draw"};
  std::optional<int64_t> height;
  std::optional<uint64_t> seed;
  std::optional<double> scale;
  int64_t port = 0;

  Command() {
    add_number(app, "--height", height, "");
    add_number(app, "--seed", seed, "");
    add_number(app, "--scale", scale, "");
    app.add_option("--port", port)->transform(whole_number<int64_t>(0, 65'535));
  }
};

/// \return what the command line, or a config file if it holds a `=`, is refused with; empty: it is taken.
std::string refusal(const std::string& text, Command& command) {
  try {
    if (text.find('=') == std::string::npos)
      command.app.parse(text);
    else
      apply_config(command.app, text, "c.toml");
    return "";
  } catch (const CLI::ParseError& error) {
    return error.what();
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(NumberFlags, WholeNumbersHave64BitsInDecimalDigits) {
  Command command;
  EXPECT_EQ(refusal("--seed 18446744073709551615 --height -9223372036854775808 --scale 1e3 --port 010", command), "");
  EXPECT_EQ(command.seed, UINT64_MAX);
  EXPECT_EQ(command.height, INT64_MIN);
  EXPECT_EQ(command.scale, 1000);
  EXPECT_EQ(command.port, 10);
}

TEST(NumberFlags, WhatIsRefusedIsNamedAsItWasGiven) {
  const std::pair<const char*, const char*> cases[] = {
      {"--seed 18446744073709551616", "18446744073709551616 is out of range; use 0 to 18446744073709551615"},
      {"--seed -1", "-1 is out of range"},
      {"--seed 0x10", "'0x10' is no whole number"},
      {"--seed true", "'true' is no whole number"},
      {"--seed 1.5", "'1.5' is no whole number"},
      {"--height 99999999999999999999", "99999999999999999999 is out of range"},
      {"--height 12.5", "'12.5' is no whole number"},
      {"height = ''", "'' is no whole number"},
      {"--height -", "'-' is no whole number"},
      {"--port 65536", "65536 is out of range; use 0 to 65535"},
      {"scale = ''", "empty"},
      {"seed = \"18446744073709551616\"", "18446744073709551616 is out of range"},
      {"seed = -1", "-1 is out of range"},
      {"height = 1.5", "'1.5' is no whole number"},
      {"height = 99999999999999999999", "99999999999999999999"}};
  for (const auto& [given, message] : cases) {
    Command command;
    EXPECT_NE(refusal(given, command).find(message), std::string::npos) << given << ": " << refusal(given, command);
  }
}

TEST(NumberFlags, NotEveryDoubleIsANumber) {
  const CLI::Validator check = number_in(0, 1e6);
  for (std::string good : {"0", "1e6", "0.5", "1000000"}) EXPECT_EQ(check(good), "") << good;
  for (std::string bad : {"nan", "-nan", "inf", "-1", "1000001", "x", ""}) EXPECT_NE(check(bad), "") << bad;
}

// TOML's integers have 63 bits and a sign.
TEST(NumberFlags, LargeSeedsOfConfigFilesStandInQuotes) {
  Command command;
  EXPECT_EQ(refusal("seed = \"18446744073709551615\"", command), "");
  EXPECT_EQ(command.seed, UINT64_MAX);
  Command bare;
  const std::string message = refusal("seed = 18446744073709551615", bare);
  EXPECT_NE(message.find("c.toml:1"), std::string::npos) << message;
  EXPECT_NE(message.find("quotes"), std::string::npos) << message;
}

TEST(Errors, OfPathsThatCannotBeLookedAtAreTheUsersToMend) {
  const auto code_of = [](std::errc error) {
    const std::filesystem::filesystem_error refused("status", "closed/model", std::make_error_code(error));
    testing::internal::CaptureStderr();
    const int code = report_error(std::make_exception_ptr(refused));
    EXPECT_NE(testing::internal::GetCapturedStderr().find("closed/model"), std::string::npos);
    return code;
  };
  EXPECT_EQ(code_of(std::errc::permission_denied), 2);
  EXPECT_EQ(code_of(std::errc::too_many_symbolic_link_levels), 2);
  EXPECT_EQ(code_of(std::errc::no_space_on_device), 1);
}

}  // namespace
}  // namespace nostos::cli
