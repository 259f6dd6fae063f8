// Tests what the log writes to standard error.
#include "base/log.h"

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/log_target.h"

namespace nostos {
namespace {

/// \return what `work` writes to standard error.
template <class Work>
std::string written_by(const Work& work) {
  testing::internal::CaptureStderr();
  work();
  return testing::internal::GetCapturedStderr();
}

class Log : public testing::Test {
 protected:
  ~Log() override { set_log_level(LogLevel::info); }
};

TEST_F(Log, WritesALineThatBeginsWithItsLevel) {
  set_log_level(LogLevel::debug);
  EXPECT_EQ(written_by([] { log_debug("{} of {}", 1, "four"); }), "debug: 1 of four\n");
  EXPECT_EQ(written_by([] { log_info("two"); }), "info: two\n");
  EXPECT_EQ(written_by([] { log_warning("three"); }), "warning: three\n");
  EXPECT_EQ(written_by([] { log_error("four"); }), "error: four\n");
}

// Prompts and paths come from outside.
TEST_F(Log, TakesAMessageAsItIs) {
  EXPECT_EQ(written_by([] { log_message(LogLevel::info, "{} %s %n {0:x}"); }), "info: {} %s %n {0:x}\n");
  EXPECT_EQ(written_by([] { log_message(LogLevel::info, std::string_view("abcdef").substr(1, 3)); }), "info: bcd\n");
}

TEST_F(Log, LeavesOutWhatIsBelowItsLevel) {
  constexpr LogLevel kAll[] = {LogLevel::debug, LogLevel::info, LogLevel::warning, LogLevel::error, LogLevel::off};
  for (const LogLevel lowest : kAll) {
    set_log_level(lowest);
    for (const LogLevel level : kAll) {
      if (level == LogLevel::off) continue;
      EXPECT_EQ(log_enabled(level), level >= lowest);
      EXPECT_EQ(!written_by([&] { log_message(level, "x"); }).empty(), level >= lowest);
    }
  }
}

TEST_F(Log, MessagesOfAThreadGoToItsTarget) {
  std::vector<std::string> taken;
  const LogTarget target{LogLevel::warning, [&](LogLevel level, std::string_view message) {
                           EXPECT_GE(level, LogLevel::warning);
                           taken.emplace_back(message);
                         }};
  const std::string written = written_by([&] {
    const LogTo to(&target);
    EXPECT_EQ(log_target(), &target);
    log_info("too low");
    log_warning("taken");
    {
      const LogTo back(nullptr);
      log_warning("written");
    }
    std::thread([] { log_error("of another thread"); }).join();
    log_error("taken, too");
  });
  EXPECT_EQ(taken, (std::vector<std::string>{"taken", "taken, too"}));
  EXPECT_EQ(written, "warning: written\nerror: of another thread\n");
  EXPECT_EQ(log_target(), nullptr);
}

TEST_F(Log, LinesOfSeveralThreadsStayWhole) {
  const std::string written = written_by([] {
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([thread] {
        for (int i = 0; i < 50; ++i) log_info("{}", std::string(100, static_cast<char>('a' + thread)));
      });
    }
    for (std::thread& each : threads) each.join();
  });
  std::istringstream lines(written);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    ASSERT_EQ(line.size(), 106u) << line;
    EXPECT_EQ(line, "info: " + std::string(100, line.back()));
  }
  EXPECT_EQ(count, 200);
}

TEST(LogLevelNames, AreParsed) {
  EXPECT_EQ(parse_log_level("debug"), LogLevel::debug);
  EXPECT_EQ(parse_log_level("info"), LogLevel::info);
  EXPECT_EQ(parse_log_level("warning"), LogLevel::warning);
  EXPECT_EQ(parse_log_level("error"), LogLevel::error);
  EXPECT_EQ(parse_log_level("off"), LogLevel::off);
  for (const char* wrong : {"", "Info", "warn", "info ", "trace"}) {
    try {
      parse_log_level(wrong);
      FAIL() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
      EXPECT_EQ(error.what(),
                "log level '" + std::string(wrong) + "' is unknown; use debug, info, warning, error or off");
    }
  }
}

}  // namespace
}  // namespace nostos
