// Owns what a family says of its pipeline where a model's files do not: what model_index.json, the scheduler's config
// and the defaults of drawings hold. Each family has a pipeline_facts(); `nostos convert` writes them down.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "families/schedule.h"

namespace nostos {

/// Defaults of drawings, which generation_config.json of a published model states.
struct GenerationDefaults {
  int64_t steps = 0;
  double guidance_scale = 0;
};

/// A family's pipeline.
struct PipelineFacts {
  std::string_view class_name;       ///< that model_index.json names
  Shifting shifting;                 ///< of the published models
  SchedulerConfig scheduler;         ///< likewise
  std::optional<bool> is_distilled;  ///< the field of model_index.json, nothing where the family has no such field
  std::optional<GenerationDefaults> defaults;  ///< nothing where the family's own are right
};

}  // namespace nostos
