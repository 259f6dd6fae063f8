// Owns where the messages of some threads go in place of the program's log. A library hands its caller's messages on
// with it; whoever starts threads for a call hands the target to them.
#pragma once

#include <functional>
#include <string_view>

#include "base/log.h"

namespace nostos {

/// Takes messages in place of the program's log.
struct LogTarget {
  LogLevel lowest = LogLevel::info;  ///< messages below are dropped
  std::function<void(LogLevel level, std::string_view message)> write;
};

/// \return where the calling thread's messages go; null: to the program's log.
const LogTarget* log_target();

/// While it lives, messages of the thread that made it go to `target`, which outlives it; null: to the program's log.
class LogTo {
 public:
  explicit LogTo(const LogTarget* target);
  ~LogTo();
  LogTo(const LogTo&) = delete;
  LogTo& operator=(const LogTo&) = delete;

 private:
  const LogTarget* before_;
};

}  // namespace nostos
