// Implements waits for other ranks.
#include "parallel/waiting.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <thread>

#include "base/error.h"

namespace nostos {

void Backoff::pause() {
  if (turns_ < yields_ + most_us_) ++turns_;  // a rank of an idle server waits for days
  if (turns_ <= yields_)
    std::this_thread::yield();
  else
    std::this_thread::sleep_for(std::chrono::microseconds(std::min(turns_, most_us_)));
}

std::chrono::steady_clock::duration clock_duration(double seconds) {
  constexpr double kForeverS = 1e9;
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(std::min(seconds, kForeverS)));
}

void throw_peer_failed(const CommunicatorFailure& failure, int self) {
  if (failure.rank == self) fail(ErrorKind::peer_failed, "this rank ({}) ended the run: {}", self, failure.reason);
  fail(ErrorKind::peer_failed, "rank {} failed: {}", failure.rank, failure.reason);
}

std::vector<int> distinct(std::vector<int> ranks) {
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

CommunicatorFailure absence(std::span<const int> missing, const char* exchange, double timeout_s, int self) {
  const std::string who = missing.size() == 1 ? "it" : fmt::format("ranks {}", fmt::join(missing, ", "));
  return {missing.front(),
          fmt::format("{} did not come to {} within {} s (rank {} waited)", who, exchange, timeout_s, self)};
}

}  // namespace nostos
