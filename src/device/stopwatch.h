// Owns the measurement of a stretch of a context's work. Use it for the times of reports; it makes nobody wait.
#pragma once

#include <chrono>
#include <optional>

#include "device/context.h"

namespace nostos {

/// Measures a context's work between construction and end(): on a GPU by events, without a wait, on the CPU by wall
/// clock.
class Stopwatch {
 public:
  /// Begins.
  explicit Stopwatch(Context& ctx) : begin_(std::chrono::steady_clock::now()) { mark(ctx, begin_event_); }
  void end(Context& ctx) {
    end_ = std::chrono::steady_clock::now();
    mark(ctx, end_event_);
  }
  /// \return whether the measured work is done.
  bool is_done() const { return !end_event_ || end_event_->is_done(); }
  /// \return milliseconds, once the work is done.
  double ms() const {
    if (begin_event_) return static_cast<double>(Event::elapsed_ms(*begin_event_, *end_event_));
    return std::chrono::duration<double, std::milli>(end_ - begin_).count();
  }

 private:
  static void mark(Context& ctx, std::optional<Event>& event) {
    if (ctx.device().kind == DeviceKind::cpu) return;
    event.emplace(ctx.device(), true);
    event->record(ctx.stream());
  }

  std::chrono::steady_clock::time_point begin_, end_;
  std::optional<Event> begin_event_, end_event_;
};

}  // namespace nostos
