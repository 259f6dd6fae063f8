// Owns a lane of the board while it draws: where its next step is drawn, and what time its stages take.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "apps/server/engine_calls.h"
#include "apps/server/job_board.h"
#include "apps/server/metrics.h"

namespace nostos::server {

/// One thread. Its places are the board's again when it ends.
class DrawnLane {
 public:
  /// Both must outlive it.
  DrawnLane(JobBoard& board, Metrics& metrics, const EngineCalls& engine, const TakenLane& taken);
  ~DrawnLane();
  DrawnLane(const DrawnLane&) = delete;
  DrawnLane& operator=(const DrawnLane&) = delete;

  /// Draws jobs of the lane. \return as EngineCalls::draw \throws Error likewise
  std::vector<Generation> draw(std::span<const GenerationRequest> requests, std::span<const Progress> progress);

 private:
  Lane next(const LaneStep& at);
  void measure(const LaneStep& at);
  void measure(const RunReport& report);

  JobBoard& board_;
  Metrics& metrics_;
  const EngineCalls& engine_;
  const int64_t id_;
  const scheduling::Work work_;
  const size_t jobs_;
  Lane lane_;
  bool is_whole_ = true;     ///< whether all its jobs are drawn together
  int64_t steady_from_ = 0;  ///< the step with which its places have drawn one
  int64_t last_done_ = 0;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace nostos::server
