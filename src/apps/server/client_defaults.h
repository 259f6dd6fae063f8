// Owns what becomes of settings that clients of other programs' APIs send for other models. Most send a guidance scale
// of 7 and some 20 steps whatever draws, which burns the pictures of a distilled model and takes several times as long.
#pragma once

#include <string>
#include <vector>

#include "pipeline/request.h"

namespace nostos::server {

enum class ClientDefaults {
  keep,   ///< draw what the client asks for
  clamp,  ///< draw with no more guidance and no more steps than the model's own
};

/// \return "keep" or "clamp".
const char* name(ClientDefaults policy);
/// \return what is done where nobody says: clamp for a model whose own guidance is off.
ClientDefaults usual_client_defaults(const ModelLimits& model);

/// A setting that is drawn with another value than the client's.
struct ChangedSetting {
  std::string field;  ///< as the client's API calls it
  double asked = 0, drawn = 0;

  friend bool operator==(const ChangedSetting&, const ChangedSetting&) = default;
};

/// \return the change in words, which name the flag that undoes it.
std::string change_warning(const ChangedSetting& change);
/// \return a change of `guidance_scale` or `num_inference_steps` as A1111's API has it: `cfg_scale`, `steps`.
ChangedSetting in_a1111_words(const ChangedSetting& change, GuidanceForm form);

struct AdaptedRequest {
  GenerationRequest request;
  std::vector<ChangedSetting> changes;  ///< in the words of GenerationRequest
};

/// \param request not resolved: what it leaves open is the model's own anyway
AdaptedRequest adapt_settings(GenerationRequest request, const ModelLimits& model, ClientDefaults policy);

}  // namespace nostos::server
