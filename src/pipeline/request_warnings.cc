// Implements what users are told of their prompts.
#include "pipeline/request_warnings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <iterator>
#include <optional>
#include <string_view>

namespace nostos {
namespace {

/// \return the first tag of A1111's that asks for an extra network, as it stands in the prompt.
std::optional<std::string_view> network_tag(std::string_view prompt) {
  constexpr std::array<std::string_view, 3> kTags{"<lora:", "<lyco:", "<hypernet:"};
  const auto is_same = [](unsigned char a, unsigned char b) { return std::tolower(a) == b; };
  for (const std::string_view tag : kTags) {
    const auto found = std::search(prompt.begin(), prompt.end(), tag.begin(), tag.end(), is_same);
    if (found != prompt.end()) return std::string_view(found, found + std::ssize(tag));
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::string> network_warnings(const GenerationRequest& request) {
  std::vector<std::string> warnings;
  for (const auto& [what, prompt] :
       {std::pair{"prompt", &request.prompt}, std::pair{"negative prompt", &request.negative_prompt}}) {
    if (const auto tag = network_tag(*prompt))
      warnings.push_back(fmt::format(
          "the {} holds {}...>: no LoRA or other network is loaded, the tag is read as plain words", what, *tag));
  }
  return warnings;
}

std::vector<std::string> cut_warnings(const GenerationRequest& request, PromptsCut cut) {
  std::vector<std::string> warnings;
  for (const auto& [what, is_cut] : {std::pair{"prompt", cut.prompt}, std::pair{"negative prompt", cut.negative}}) {
    if (is_cut)
      warnings.push_back(fmt::format("the {} was cut to its first {} tokens (max_sequence_length)", what,
                                     request.max_sequence_length.value_or(kDefaultSequenceLength)));
  }
  return warnings;
}

std::vector<std::string> control_warnings(const GenerationRequest& request) {
  if (!request.control || request.control->scale == 0) return {};
  const Control& control = *request.control;
  const auto steps = drawn_steps(request);
  const auto adds = [](float scale) { return scale != 0; };
  if (std::ranges::any_of(control_scales(control, steps), adds)) return {};
  return {fmt::format("the control {} changes nothing: of {} steps none lies between its start {} and its end {}",
                      control.image ? "image" : "network", steps, control.start, control.end)};
}

std::vector<std::string> guidance_warnings(const GenerationRequest& request, GuidanceForm guidance,
                                           const GuidanceWords& words) {
  std::vector<std::string> warnings;
  const double scale = request.guidance_scale.value_or(0);
  if (guides(guidance, scale)) return warnings;
  const bool has_none = guidance == GuidanceForm::none;
  if (has_none && scale > 1 && !words.scale.empty())
    warnings.push_back(
        fmt::format("{} {} changes nothing: this model is distilled and draws without guidance", words.scale, scale));
  const auto warn = [&](bool is_given, const std::string& field) {
    if (is_given && !field.empty())
      warnings.push_back(
          fmt::format("{} changes nothing without guidance{}", field,
                      has_none ? ", which this distilled model has not" : fmt::format(": give {}", words.ask)));
  };
  warn(!request.negative_prompt.empty(), words.negative_prompt);
  warn(request.cfg_normalization > 0, words.cfg_normalization);
  return warnings;
}

std::vector<std::string> warnings_of(const GenerationRequest& request, PromptsCut cut) {
  std::vector<std::string> warnings = network_warnings(request);
  for (std::string& warning : control_warnings(request)) warnings.push_back(std::move(warning));
  for (std::string& warning : cut_warnings(request, cut)) warnings.push_back(std::move(warning));
  return warnings;
}

}  // namespace nostos
