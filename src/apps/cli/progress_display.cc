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

std::string minutes_of(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(seconds));
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

/// \return a line of a count, a bar of which `done` of `total` is filled, and a rate.
std::string bar_line(const std::string& count, std::pair<uint64_t, uint64_t> done_of_total, const std::string& rate,
                     int64_t columns) {
  constexpr int64_t kLongestBar = 30, kShortestBar = 5;
  const int64_t room = columns - std::ssize(count) - std::ssize(rate) - std::ssize(std::string_view(" [] "));
  const int64_t bar = room < kShortestBar ? 0 : std::min(room, kLongestBar);
  const auto [done, total] = done_of_total;
  const int64_t filled = total == 0 ? bar : static_cast<int64_t>(static_cast<uint64_t>(bar) * done / total);
  const std::string line = bar == 0 ? fmt::format("{} {}", count, rate)
                                    : fmt::format("{} [{:#<{}}{:.<{}}] {}", count, "", filled, "", bar - filled, rate);
  return fmt::format("{:.{}}", line, std::max<int64_t>(columns, 0));
}

}  // namespace

std::string progress_line(int64_t step, int64_t steps, double mean_step_ms, int64_t columns) {
  const std::string left = minutes_of(static_cast<double>(steps - step) * mean_step_ms / 1000);
  return bar_line(fmt::format("{:>3}/{}", step, steps), {step, steps},
                  fmt::format("{:5.2f} s/it  ETA {}", mean_step_ms / 1000, left), columns);
}

std::string transfer_line(uint64_t done, uint64_t total, double bytes_per_s, int64_t columns) {
  const double unit = total < 1'000'000'000 ? 1e6 : 1e9;
  const std::string count = fmt::format("{:>4.1f}/{:.1f} {}", static_cast<double>(done) / unit,
                                        static_cast<double>(total) / unit, unit == 1e6 ? "MB" : "GB");
  const std::string left = bytes_per_s > 0 ? minutes_of(static_cast<double>(total - done) / bytes_per_s) : "?";
  return bar_line(count, {done, total}, fmt::format("{:5.1f} MB/s  ETA {}", bytes_per_s / 1e6, left), columns);
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
  write_plain(fmt::format("step {}/{}\n", step, steps));
}

void ProgressDisplay::on_bytes(uint64_t done, uint64_t total, double bytes_per_s) {
  if (!enabled_) return;
  if (redraws_)
    redraw(transfer_line(done, total, bytes_per_s, line_columns()));
  else
    write_plain(
        fmt::format("{:.1f} of {:.1f} MB\n", static_cast<double>(done) / 1e6, static_cast<double>(total) / 1e6));
}

void ProgressDisplay::write_plain(const std::string& line) {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_line_) return;
  next_line_ = now + std::chrono::seconds(1);
  write_error(line);
}

void ProgressDisplay::redraw(const std::string& line) {
  write_error("\r\x1b[K" + line);
  drawn_ = !line.empty();
}

}  // namespace nostos::cli
