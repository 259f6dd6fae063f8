// Owns what users are told of requests that are not drawn as they may expect.
#pragma once

#include <string>
#include <vector>

#include "pipeline/generation.h"

namespace nostos {

/// \return of each prompt that holds a tag such as <lora:detail:0.8> that no network is loaded for it.
std::vector<std::string> network_warnings(const GenerationRequest& request);

/// \return of each prompt that was cut to how many tokens. \param request resolved
std::vector<std::string> cut_warnings(const GenerationRequest& request, PromptsCut cut);

/// \return of a control image that it changes nothing, where none of the steps lies between its start and its end.
/// \param request resolved
std::vector<std::string> control_warnings(const GenerationRequest& request);

/// How a user asks for guidance and for what is of use with it alone.
struct GuidanceWords {
  std::string ask = "guidance_scale";  ///< as messages advise it
  /// What gave the field, as messages name it; empty: the user did not.
  std::string scale = "guidance_scale", negative_prompt = "negative_prompt", cfg_normalization = "cfg_normalization";
};

/// \return of each field that asks for guidance, or is of use with guidance alone, that it changes nothing in this
/// drawing. \param request resolved \param guidance the model's
std::vector<std::string> guidance_warnings(const GenerationRequest& request, GuidanceForm guidance,
                                           const GuidanceWords& words = {});

/// \return those of networks, control and cuts.
std::vector<std::string> warnings_of(const GenerationRequest& request, PromptsCut cut);

}  // namespace nostos
