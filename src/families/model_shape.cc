// Reads the defaults of a model folder.
#include "families/model_shape.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "families/part_files.h"
#include "io/json_config.h"

namespace nostos {

const char* name(GuidanceForm form) {
  switch (form) {
    case GuidanceForm::none:
      return "none";
    case GuidanceForm::from_positive:
      return "from_positive";
    case GuidanceForm::from_negative:
      return "from_negative";
  }
  return "";
}

GuidanceForm parse_guidance_form(const std::string& text) {
  for (const GuidanceForm form : {GuidanceForm::none, GuidanceForm::from_positive, GuidanceForm::from_negative})
    if (text == name(form)) return form;
  fail(ErrorKind::model, "guidance_form is '{}': it must be none, from_positive or from_negative", text);
}

bool guides(GuidanceForm form, double scale) {
  switch (form) {
    case GuidanceForm::none:
      return false;
    case GuidanceForm::from_positive:
      return scale > 0;
    case GuidanceForm::from_negative:
      return scale > 1;
  }
  return false;
}

void read_generation_config(const FamilyOptions& options, ModelLimits& limits) {
  limits.default_height = std::min(limits.default_height, limits.max_side);
  limits.default_width = std::min(limits.default_width, limits.max_side);
  const std::filesystem::path folder = options.files.folder();
  const std::optional<JsonConfig> json = folder.empty() ? config_in_file(options, "config.generation")
                                                        : JsonConfig::load_if_there(folder / "generation_config.json");
  if (!json) return;
  limits.default_steps = json->integer_or("num_inference_steps", limits.default_steps, 1, kMaxSteps);
  limits.default_guidance_scale = json->number_or("guidance_scale", limits.default_guidance_scale, 0, kMaxGuidance);
  limits.default_height = json->integer_or("height", limits.default_height, 1, limits.max_side);
  limits.default_width = json->integer_or("width", limits.default_width, 1, limits.max_side);
}

}  // namespace nostos
