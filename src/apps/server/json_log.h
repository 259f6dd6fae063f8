// Owns the server's log: one JSON object a line on standard error.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "base/log.h"

namespace nostos::server {

/// Writes time, level, message and `fields` if `level` is enabled. Any thread; lines do not mix.
void log_json(LogLevel level, std::string_view message, const nlohmann::ordered_json& fields);

}  // namespace nostos::server
