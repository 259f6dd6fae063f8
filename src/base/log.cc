// Implements logging on spdlog's standard-error sink, and the targets of threads.
#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/log_target.h"
#include "base/terminal.h"

namespace nostos {
namespace {

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    const auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
    if (!wants_colours()) sink->set_color_mode(spdlog::color_mode::never);
    auto made = std::make_shared<spdlog::logger>("nostos", sink);
    made->set_pattern("%^%l%$: %v");
    return made;
  }();
  return *instance;
}

std::function<void(LogLevel, std::string_view)>& writer() {
  static std::function<void(LogLevel, std::string_view)> instance;
  return instance;
}

thread_local const LogTarget* target_of_thread = nullptr;

struct Level {
  LogLevel level;
  std::string_view name;
  spdlog::level::level_enum of_spdlog;
};
constexpr std::array<Level, 5> kLevels{{{LogLevel::debug, "debug", spdlog::level::debug},
                                        {LogLevel::info, "info", spdlog::level::info},
                                        {LogLevel::warning, "warning", spdlog::level::warn},
                                        {LogLevel::error, "error", spdlog::level::err},
                                        {LogLevel::off, "off", spdlog::level::off}}};

spdlog::level::level_enum to_spdlog(LogLevel level) { return kLevels[static_cast<size_t>(level)].of_spdlog; }

}  // namespace

void set_log_level(LogLevel level) { logger().set_level(to_spdlog(level)); }

LogLevel parse_log_level(std::string_view name) {
  for (const Level& known : kLevels) {
    if (known.name == name) return known.level;
  }
  fail(ErrorKind::invalid_input, "log level '{}' is unknown; use debug, info, warning, error or off", name);
}

void set_log_writer(std::function<void(LogLevel, std::string_view)> write) { writer() = std::move(write); }

void log_message(LogLevel level, std::string_view message) {
  if (!log_enabled(level)) return;
  if (target_of_thread != nullptr) return target_of_thread->write(level, message);
  if (writer()) return writer()(level, message);
  const std::string shown = shown_message(message);
  logger().log(to_spdlog(level), spdlog::string_view_t(shown.data(), shown.size()));
}

bool log_enabled(LogLevel level) {
  if (target_of_thread != nullptr) return level >= target_of_thread->lowest;
  return logger().should_log(to_spdlog(level));
}

const LogTarget* log_target() { return target_of_thread; }

LogTo::LogTo(const LogTarget* target) : before_(std::exchange(target_of_thread, target)) {}

LogTo::~LogTo() { target_of_thread = before_; }

}  // namespace nostos
