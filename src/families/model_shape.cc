// Reads the defaults of a model folder.
#include "families/model_shape.h"

#include <algorithm>
#include <optional>

#include "io/json_config.h"

namespace nostos {

void read_generation_config(const std::filesystem::path& folder, ModelLimits& limits) {
  limits.default_height = std::min(limits.default_height, limits.max_side);
  limits.default_width = std::min(limits.default_width, limits.max_side);
  const std::optional<JsonConfig> json = JsonConfig::load_if_there(folder / "generation_config.json");
  if (!json) return;
  limits.default_steps = json->integer_or("num_inference_steps", limits.default_steps, 1, kMaxSteps);
  limits.default_guidance_scale = json->number_or("guidance_scale", limits.default_guidance_scale, 0, kMaxGuidance);
  limits.default_height = json->integer_or("height", limits.default_height, 1, limits.max_side);
  limits.default_width = json->integer_or("width", limits.default_width, 1, limits.max_side);
}

}  // namespace nostos
