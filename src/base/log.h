// Owns logging: five levels, one line a message on standard error, or what a program with a log of its own does.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string_view>
#include <utility>

namespace nostos {

enum class LogLevel { debug, info, warning, error, off };

/// Sets the lowest level that is written (default: info).
void set_log_level(LogLevel level);

/// \return the level named "debug", "info", "warning", "error" or "off". \throws Error invalid_input for any other
/// name.
LogLevel parse_log_level(std::string_view name);

/// Writes one line to standard error if `level` is enabled, on a terminal in colour where it is wanted
/// (wants_colours()). A line that cannot be written is dropped. Thread-safe.
void log_message(LogLevel level, std::string_view message);

/// Has `write` write enabled messages in place of the line on standard error. To be called while no other thread logs;
/// afterwards any thread may call `write`.
void set_log_writer(std::function<void(LogLevel level, std::string_view message)> write);

/// \return whether messages of `level` are written.
bool log_enabled(LogLevel level);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::debug)) log_message(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::info)) log_message(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::warning)) log_message(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::error)) log_message(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace nostos
