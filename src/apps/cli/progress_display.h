// Owns how a run in progress looks on standard error: a bar on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace nostos::cli {

/// \return the bar's line after `step` of `steps`, e.g. "  3/9 [######..............]  1.23 s/it  ETA 0:07".
/// \param mean_step_ms mean time of the steps so far
/// \param columns that the line may take at most: the bar gets shorter, then is left out, and at last the line is cut
std::string progress_line(int64_t step, int64_t steps, double mean_step_ms, int64_t columns);

/// \return the bar's line after `done` of `total` bytes, e.g. " 3.1/12.0 GB [#######....]  98.2 MB/s  ETA 1:31".
/// \param columns as of progress_line()
std::string transfer_line(uint64_t done, uint64_t total, double bytes_per_s, int64_t columns);

/// Shows one run. On a terminal the current line is redrawn in place, as wide as the terminal is then, and cleared at
/// the end; elsewhere, and on terminals without escape sequences, lines such as `step K/N` are written, at most
/// one a second. What cannot be written is dropped. One thread.
class ProgressDisplay {
 public:
  /// \param enabled false shows nothing
  explicit ProgressDisplay(bool enabled);
  ~ProgressDisplay();
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  /// A stage began; shown on terminals alone.
  void on_stage(const char* stage);
  /// A denoising step ended; steps count from 1 through all pictures of a run.
  void on_step(int64_t step, int64_t steps, double step_ms);
  /// Bytes of a transfer came; `done` counts those that were there at the start, which `bytes_per_s` does not.
  void on_bytes(uint64_t done, uint64_t total, double bytes_per_s);
  /// Takes the line off the terminal, so that messages start on an empty one.
  void clear();

 private:
  void redraw(const std::string& line);
  /// Writes a line of a display that is no terminal, unless the one before it is not a second old.
  void write_plain(const std::string& line);

  bool enabled_;
  bool redraws_;        ///< standard error is a terminal that understands how
  bool drawn_ = false;  ///< the terminal's current line is ours
  double elapsed_ms_ = 0;
  std::chrono::steady_clock::time_point next_line_{};  ///< earliest time of the next plain line
};

}  // namespace nostos::cli
