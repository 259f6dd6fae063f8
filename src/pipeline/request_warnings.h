// Owns what users are told of prompts that are not drawn as they may expect.
#pragma once

#include <string>
#include <vector>

#include "pipeline/generation.h"

namespace nostos {

/// \return of each prompt that holds a tag such as <lora:detail:0.8> that no network is loaded for it.
std::vector<std::string> network_warnings(const GenerationRequest& request);

/// \return of each prompt that was cut to how many tokens. \param request resolved
std::vector<std::string> cut_warnings(const GenerationRequest& request, PromptsCut cut);

/// \return of each field that asks for guidance, or is of use with guidance alone, that it changes nothing in this
/// drawing.
/// \param request resolved \param guidance the model's
std::vector<std::string> guidance_warnings(const GenerationRequest& request, GuidanceForm guidance);

/// \return those of networks and cuts.
std::vector<std::string> warnings_of(const GenerationRequest& request, PromptsCut cut);

}  // namespace nostos
