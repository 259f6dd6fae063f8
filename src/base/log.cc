// Implements logging on spdlog's standard-error sink.
#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <string>

#include "base/error.h"
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
  if (writer()) return writer()(level, message);
  const std::string shown = shown_message(message);
  logger().log(to_spdlog(level), spdlog::string_view_t(shown.data(), shown.size()));
}

bool log_enabled(LogLevel level) { return logger().should_log(to_spdlog(level)); }

}  // namespace nostos
