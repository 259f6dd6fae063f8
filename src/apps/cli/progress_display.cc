// Implements the progress bar and its plain lines.
#include "apps/cli/progress_display.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>

namespace nostos::cli {

std::string progress_line(int64_t step, int64_t steps, double mean_step_ms) {
  constexpr int64_t kBarWidth = 30;
  const auto filled = static_cast<size_t>(kBarWidth * step / steps);
  const auto left_s = static_cast<int64_t>(std::ceil(static_cast<double>(steps - step) * mean_step_ms / 1000));
  const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  return fmt::format("{:>3}/{} [{}] {:5.2f} s/it  ETA {}:{:02}", step, steps, bar, mean_step_ms / 1000, left_s / 60,
                     left_s % 60);
}

ProgressDisplay::ProgressDisplay(bool enabled) : enabled_(enabled), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressDisplay::~ProgressDisplay() { clear(); }

void ProgressDisplay::clear() {
  if (drawn_) redraw("");
}

void ProgressDisplay::on_stage(const char* stage) {
  if (enabled_ && terminal_) redraw(fmt::format("{} ...", stage));
}

void ProgressDisplay::on_step(int64_t step, int64_t steps, double step_ms) {
  if (!enabled_) return;
  elapsed_ms_ = step == 1 ? step_ms : elapsed_ms_ + step_ms;
  if (terminal_) {
    redraw(progress_line(step, steps, elapsed_ms_ / static_cast<double>(step)));
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now < next_line_) return;
  next_line_ = now + std::chrono::seconds(1);
  fmt::print(stderr, "step {}/{}\n", step, steps);
}

void ProgressDisplay::redraw(const std::string& line) {
  fmt::print(stderr, "\r\x1b[K{}", line);
  std::fflush(stderr);
  drawn_ = !line.empty();
}

}  // namespace nostos::cli
