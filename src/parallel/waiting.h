// Owns what waits for other ranks share: pauses between looks, time-outs that fit a clock, and the naming of ranks that
// stay away.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <vector>

namespace nostos {

/// Pauses between looks at what is waited for: yields at first, then sleeps ever longer, up to `most_us`. What is short
/// ends soon, what is long leaves the processor to others.
class Backoff {
 public:
  Backoff(int yields, int most_us) : yields_(yields), most_us_(most_us) {}
  void reset() { turns_ = 0; }
  void pause();

 private:
  int yields_, most_us_;
  int turns_ = 0;
};

/// \return `seconds`, or a time without end that keeps deadlines within the clock's range.
std::chrono::steady_clock::duration clock_duration(double seconds);

/// Why a communicator no longer works.
struct CommunicatorFailure {
  int rank = 0;  ///< the rank at fault
  std::string reason;
};

/// Throws Error peer_failed with the failing rank and its reason, as rank `self` tells it.
[[noreturn]] void throw_peer_failed(const CommunicatorFailure& failure, int self);

/// \return `ranks` in order, each once.
std::vector<int> distinct(std::vector<int> ranks);

/// \return the failure of `missing`, at least one, which did not come to an exchange that rank `self` waited in.
CommunicatorFailure absence(std::span<const int> missing, const char* exchange, double timeout_s, int self);

}  // namespace nostos
