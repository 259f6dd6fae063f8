// Implements the policy for settings that were made for other models.
#include "apps/server/client_defaults.h"

#include <fmt/format.h>

#include <utility>

namespace nostos::server {

const char* name(ClientDefaults policy) { return policy == ClientDefaults::clamp ? "clamp" : "keep"; }

ClientDefaults usual_client_defaults(const ModelLimits& model) {
  return guides(model.guidance, model.default_guidance_scale) ? ClientDefaults::keep : ClientDefaults::clamp;
}

std::string change_warning(const ChangedSetting& change) {
  return fmt::format("{} {} is drawn as {}, the model's own (serve --client-defaults keep draws what is asked for)",
                     change.field, change.asked, change.drawn);
}

ChangedSetting in_a1111_words(const ChangedSetting& change, GuidanceForm form) {
  if (change.field != "guidance_scale") return {"steps", change.asked, change.drawn};
  return {"cfg_scale", cfg_scale_of(change.asked, form), cfg_scale_of(change.drawn, form)};
}

AdaptedRequest adapt_settings(GenerationRequest request, const ModelLimits& model, ClientDefaults policy) {
  AdaptedRequest adapted{.request = std::move(request), .changes = {}};
  if (policy == ClientDefaults::keep) return adapted;
  const auto change = [&adapted](const char* field, auto& setting, auto own) {
    adapted.changes.push_back({field, static_cast<double>(*setting), static_cast<double>(own)});
    setting = own;
  };
  auto& steps = adapted.request.num_inference_steps;
  auto& scale = adapted.request.guidance_scale;
  if (steps && *steps > model.default_steps) change("num_inference_steps", steps, model.default_steps);
  // A scale that switches nothing on burns nothing.
  if (scale && *scale > model.default_guidance_scale && guides(model.guidance, *scale))
    change("guidance_scale", scale, model.default_guidance_scale);
  return adapted;
}

}  // namespace nostos::server
