// Implements the JSON that the commands write.
#include "apps/cli/json_text.h"

#include <nlohmann/json.hpp>

namespace nostos::cli {

using nlohmann::ordered_json;

ordered_json request_json(const GenerationRequest& request) {
  return {{"prompt", request.prompt},
          {"negative_prompt", request.negative_prompt},
          {"height", request.height.value()},
          {"width", request.width.value()},
          {"num_inference_steps", request.num_inference_steps.value()},
          {"guidance_scale", request.guidance_scale.value()},
          {"cfg_normalization", request.cfg_normalization},
          {"cfg_truncation", request.cfg_truncation},
          {"seed", request.seed},
          {"num_outputs", request.num_outputs},
          {"rng", name(request.rng)},
          {"sigmas", request.sigmas},
          {"latents", request.latents.string()},
          {"max_sequence_length",
           request.max_sequence_length ? ordered_json(*request.max_sequence_length) : ordered_json()}};
}

ordered_json report_json(const RunReport& report, double start_ms, double total_ms) {
  ordered_json stages = ordered_json::array();
  for (const StageTime& stage : report.stages) stages.push_back({{"name", stage.name}, {"ms", stage.ms}});
  ordered_json ranks = ordered_json::array();
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
          {"arena_bytes", report.arena_bytes},
          {"peak_host_bytes", report.peak_host_bytes},
          {"transformer_flop_per_step", report.transformer_flop},
          {"world_size", report.ranks.size()},
          {"ranks", ranks}};
}

std::string json_line(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string json_pretty(const ordered_json& json) {
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace nostos::cli
