// Owns the step from a prompt to the text encoder's tokens: Qwen3's chat template and truncation. A family whose
// encoder is Qwen3 calls it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace nostos {

/// Whether the model may think before it answers, which the template says at its end.
enum class Thinking {
  enabled,   ///< Z-Image: diffusers pipeline_z_image.py, apply_chat_template(enable_thinking=True)
  disabled,  ///< FLUX.2-klein: pipeline_flux2_klein.py, enable_thinking=False, which adds empty thoughts
};

/// \return `prompt` in Qwen3's chat template: one user message and a generation prompt. The prompt is neither stripped
/// nor escaped.
std::string chat_prompt(std::string_view prompt, Thinking thinking = Thinking::enabled);

struct PromptTokens {
  std::vector<int32_t> ids;
  bool truncated;  ///< whether tokens were cut off
};

/// \return the first `max_tokens` tokens of chat_prompt(prompt). Like the references, this cuts the whole sequence from
/// the right, so the template's end goes first.
/// \throws Error invalid_input if `max_tokens` is not positive.
PromptTokens tokenize_prompt(const Tokenizer& tokenizer, std::string_view prompt, int64_t max_tokens = 512,
                             Thinking thinking = Thinking::enabled);
/// The same for a synthetic model without a tokenizer: one token of each byte, below `vocabulary`.
PromptTokens tokenize_bytes(std::string_view prompt, int64_t max_tokens, int64_t vocabulary,
                            Thinking thinking = Thinking::enabled);

}  // namespace nostos
