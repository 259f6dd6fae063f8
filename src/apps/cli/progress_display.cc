// Implements the progress bar and its plain lines.
#include "apps/cli/progress_display.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "apps/cli/standard_streams.h"
#include "base/terminal.h"

namespace nostos::cli {
namespace {

/// \return the columns that a line may take: one less than the terminal on standard error has now, so that none wraps.
int64_t line_columns() {
  constexpr int64_t kUnknown = 80;
  winsize size{};
  const bool is_known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return (is_known ? size.ws_col : kUnknown) - 1;
}

}  // namespace

std::string progress_line(int64_t step, int64_t steps, double mean_step_ms, int64_t columns) {
  constexpr int64_t kLongestBar = 30, kShortestBar = 5;
  const auto left_s = static_cast<int64_t>(std::ceil(static_cast<double>(steps - step) * mean_step_ms / 1000));
  const std::string count = fmt::format("{:>3}/{}", step, steps);
  const std::string rate = fmt::format("{:5.2f} s/it  ETA {}:{:02}", mean_step_ms / 1000, left_s / 60, left_s % 60);
  const int64_t room = columns - std::ssize(count) - std::ssize(rate) - std::ssize(std::string_view(" [] "));
  const int64_t bar = room < kShortestBar ? 0 : std::min(room, kLongestBar);
  const int64_t filled = bar * step / steps;
  const std::string line = bar == 0 ? fmt::format("{} {}", count, rate)
                                    : fmt::format("{} [{:#<{}}{:.<{}}] {}", count, "", filled, "", bar - filled, rate);
  return fmt::format("{:.{}}", line, std::max<int64_t>(columns, 0));
}

ProgressDisplay::ProgressDisplay(bool enabled)
    : enabled_(enabled), redraws_(isatty(STDERR_FILENO) == 1 && has_escape_sequences()) {}

ProgressDisplay::~ProgressDisplay() { clear(); }

void ProgressDisplay::clear() {
  if (drawn_) redraw("");
}

void ProgressDisplay::on_stage(const char* stage) {
  if (enabled_ && redraws_) redraw(fmt::format("{:.{}}", fmt::format("{} ...", stage), line_columns()));
}

void ProgressDisplay::on_step(int64_t step, int64_t steps, double step_ms) {
  if (!enabled_) return;
  elapsed_ms_ = step == 1 ? step_ms : elapsed_ms_ + step_ms;
  if (redraws_) {
    redraw(progress_line(step, steps, elapsed_ms_ / static_cast<double>(step), line_columns()));
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now < next_line_) return;
  next_line_ = now + std::chrono::seconds(1);
  write_error(fmt::format("step {}/{}\n", step, steps));
}

void ProgressDisplay::redraw(const std::string& line) {
  write_error("\r\x1b[K" + line);
  drawn_ = !line.empty();
}

}  // namespace nostos::cli
