// Implements the report of a drawing.
#include "pipeline/report.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "pipeline/hand_over.h"

namespace nostos {
namespace {

size_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return static_cast<size_t>(std::stoull(line.substr(6))) * 1024;
  }
  return 0;
}

void report_times(Drawing& drawing) {
  RunReport& report = drawing.report;
  for (const auto& [name, watch] : drawing.stages) {
    const auto known = std::ranges::find(report.stages, name, &StageTime::name);
    if (known == report.stages.end())
      report.stages.push_back({name, watch.ms()});
    else
      known->ms += watch.ms();
  }
  for (const Stopwatch& step : drawing.steps) report.step_ms.push_back(step.ms());
}

void report_ranks(Drawing& drawing, uint64_t bytes_sent) {
  std::vector<RankReport>& all = drawing.report.ranks;
  RankReport own = all.front();
  own.bytes_sent = bytes_sent;
  all = drawing.world().gather(own);
}

}  // namespace

void report_weights(Drawing& drawing) {
  if (!drawing.leads()) return;
  RunReport& report = drawing.report;
  report.weight_bytes = std::max(report.weight_bytes, drawing.parts().weight_bytes());
  report.streamed_bytes = std::max(report.streamed_bytes, drawing.parts().streamed_bytes());
  report.adapter_bytes = std::max(report.adapter_bytes, drawing.parts().adapter_bytes());
}

int64_t steps_done(const Drawing& drawing) {
  return std::accumulate(drawing.steps_done.begin(), drawing.steps_done.end(), int64_t{0});
}

void report_lane(Drawing& drawing) {
  LaneReport& own = drawing.report.lanes.emplace_back();
  own.lane = drawing.stretch.lane;
  own.steps_done = steps_done(drawing);
  if (drawing.stretch.from == nullptr) return;
  drawing.world().device().synchronize(drawing.ctx(), "change of lanes");
  const auto change = std::chrono::steady_clock::now() - drawing.stretch.from->since;
  own.change_ms = std::chrono::duration<double, std::milli>(change).count();
}

void report_work(Drawing& drawing) {
  report_weights(drawing);
  report_times(drawing);
}

void finish_report(Drawing& drawing, uint64_t bytes_sent) {
  report_work(drawing);
  drawing.report.peak_host_bytes = peak_resident_bytes();
  report_ranks(drawing, bytes_sent);
}

}  // namespace nostos
