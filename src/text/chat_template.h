// Owns the step from a prompt to the text encoder's tokens: Qwen3's chat template and truncation. A family whose
// encoder is Qwen3 calls it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace nostos {

/// \return `prompt` in Qwen3's chat template, in the one form that Z-Image uses: one user message, a generation prompt,
/// thinking enabled. The prompt is neither stripped nor escaped.
/// Source: diffusers pipeline_z_image.py, apply_chat_template(add_generation_prompt=True, enable_thinking=True).
std::string chat_prompt(std::string_view prompt);

struct PromptTokens {
  std::vector<int32_t> ids;
  bool truncated;  ///< whether tokens were cut off
};

/// \return the first `max_tokens` tokens of chat_prompt(prompt). Like the reference, this cuts the whole sequence from
/// the right, so the template's end goes first.
/// \throws Error invalid_input if `max_tokens` is not positive.
PromptTokens tokenize_prompt(const Tokenizer& tokenizer, std::string_view prompt, int64_t max_tokens = 512);

}  // namespace nostos
