// Implements what is said of a drawing.
#include "api/drawing_json.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "api/model_places.h"
#include "pipeline/request_warnings.h"

namespace nostos {

nlohmann::ordered_json report_json(const RunReport& report, double start_ms, double total_ms) {
  nlohmann::ordered_json stages = nlohmann::ordered_json::array();
  for (const StageTime& stage : report.stages) stages.push_back({{"name", stage.name}, {"ms", stage.ms}});
  nlohmann::ordered_json ranks = nlohmann::ordered_json::array();
  for (const RankReport& rank : report.ranks) {
    ranks.push_back({{"rank", rank.rank},
                     {"image_tokens", rank.image_tokens},
                     {"heads", rank.heads},
                     {"bytes_sent", rank.bytes_sent}});
  }
  return {{"start_ms", start_ms},
          {"stages", stages},
          {"steps", report.step_ms.size()},
          {"step_ms", report.step_ms},
          {"total_ms", total_ms},
          {"weight_bytes", report.weight_bytes},
          {"adapter_bytes", report.adapter_bytes},
          {"arena_bytes", report.arena_bytes},
          {"peak_host_bytes", report.peak_host_bytes},
          {"transformer_flop_per_step", report.transformer_flop},
          {"world_size", report.ranks.size()},
          {"ranks", ranks}};
}

nlohmann::ordered_json drawing_json(const DrawingRecord& record, const ModelFiles& model, const Generation& generation,
                                    nlohmann::ordered_json report) {
  return {{"model_path", shown_place(model)},
          {"precision", record.precision},
          {"request", request_json(record.request)},
          {"drawn_height", generation.resolved.drawn_height},
          {"drawn_width", generation.resolved.drawn_width},
          {"prompt_truncated", generation.cut.prompt},
          {"negative_prompt_truncated", generation.cut.negative},
          {"warnings", warnings_of(record.request, generation.cut)},
          {"report", std::move(report)},
          {"version", NOSTOS_VERSION}};
}

}  // namespace nostos
