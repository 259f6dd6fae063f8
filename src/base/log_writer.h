// Owns who writes log messages, for programs whose log has a form of its own.
#pragma once

#include <functional>
#include <string_view>

#include "base/log.h"

namespace nostos {

/// Has `write` write enabled messages in place of the line on standard error. To be called while no other thread logs;
/// afterwards any thread may call `write`.
void set_log_writer(std::function<void(LogLevel level, std::string_view message)> write);

}  // namespace nostos
