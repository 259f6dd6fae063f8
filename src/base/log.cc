// Implements logging on spdlog's standard-error sink.
#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <utility>

#include "base/error.h"
#include "base/log_writer.h"
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

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
    case LogLevel::off:
      break;
  }
  return spdlog::level::off;
}

}  // namespace

void set_log_level(LogLevel level) { logger().set_level(to_spdlog(level)); }

LogLevel parse_log_level(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, LogLevel>, 5> kNames{{{"debug", LogLevel::debug},
                                                                         {"info", LogLevel::info},
                                                                         {"warning", LogLevel::warning},
                                                                         {"error", LogLevel::error},
                                                                         {"off", LogLevel::off}}};
  for (const auto& [known, level] : kNames) {
    if (known == name) return level;
  }
  fail(ErrorKind::invalid_input, "log level '{}' is unknown; use debug, info, warning, error or off", name);
}

void set_log_writer(std::function<void(LogLevel, std::string_view)> write) { writer() = std::move(write); }

void log_message(LogLevel level, std::string_view message) {
  if (!log_enabled(level)) return;
  if (writer()) return writer()(level, message);
  logger().log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
}

bool log_enabled(LogLevel level) { return logger().should_log(to_spdlog(level)); }

}  // namespace nostos
