// Implements the server's log.
#include "apps/server/json_log.h"

#include <fmt/chrono.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "io/json_text.h"

namespace nostos::server {

void log_json(LogLevel level, std::string_view message, const nlohmann::ordered_json& fields) {
  if (!log_enabled(level)) return;
  constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  const auto now = std::chrono::system_clock::now();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  nlohmann::ordered_json line{
      {"time", fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(now)), ms)},
      {"level", kNames[static_cast<int>(level)]},
      {"message", message}};
  line.update(fields);
  const std::string text = json_line(line) + "\n";
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace nostos::server
