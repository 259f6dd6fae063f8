// Implements the measurement of work.
#include "device/stopwatch.h"

namespace nostos {

Stopwatch::Stopwatch(Context& ctx) : begin_(std::chrono::steady_clock::now()) {
  if (ctx.device().kind == DeviceKind::cpu) return;
  begin_event_.emplace(ctx.device(), true);
  begin_event_->record(ctx.stream());
}

void Stopwatch::end(Context& ctx) {
  end_ = std::chrono::steady_clock::now();
  if (!begin_event_) return;
  end_event_.emplace(ctx.device(), true);
  end_event_->record(ctx.stream());
}

double Stopwatch::ms() const {
  if (begin_event_) return static_cast<double>(Event::elapsed_ms(*begin_event_, *end_event_));
  return std::chrono::duration<double, std::milli>(end_ - begin_).count();
}

}  // namespace nostos
