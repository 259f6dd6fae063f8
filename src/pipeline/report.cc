// Implements the report of a drawing.
#include "pipeline/report.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "parallel/communicator.h"

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
  if (!drawing.rank.leads) return;
  RunReport& report = drawing.report;
  report.weight_bytes = std::max(report.weight_bytes, drawing.parts().weight_bytes());
  report.streamed_bytes = std::max(report.streamed_bytes, drawing.parts().streamed_bytes());
  report.adapter_bytes = std::max(report.adapter_bytes, drawing.parts().adapter_bytes());
}

void finish_report(Drawing& drawing, uint64_t bytes_sent) {
  report_weights(drawing);
  drawing.report.peak_host_bytes = peak_resident_bytes();
  report_times(drawing);
  report_ranks(drawing, bytes_sent);
}

}  // namespace nostos
