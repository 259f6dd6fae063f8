// Owns the measurement of a stretch of a context's work.
#pragma once

#include <chrono>
#include <optional>

#include "device/context.h"

namespace nostos {

/// Measures what a context works between begin and end: on a GPU by events, without a wait, else by wall clock.
class Stopwatch {
 public:
  /// Begins.
  explicit Stopwatch(Context& ctx);
  void end(Context& ctx);
  /// \return whether the measured work is done.
  bool is_done() const { return !end_event_ || end_event_->is_done(); }
  /// \return milliseconds, once the work is done.
  double ms() const;

 private:
  std::chrono::steady_clock::time_point begin_, end_;
  std::optional<Event> begin_event_, end_event_;
};

}  // namespace nostos
