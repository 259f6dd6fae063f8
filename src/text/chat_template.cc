// Implements Qwen3's chat template for one user message, and truncation.
#include "text/chat_template.h"

#include <utility>

#include "base/error.h"

namespace nostos {

std::string chat_prompt(std::string_view prompt) {
  return fmt::format("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", prompt);
}

PromptTokens tokenize_prompt(const Tokenizer& tokenizer, std::string_view prompt, int64_t max_tokens) {
  require(max_tokens > 0, ErrorKind::invalid_input, "the limit of {} prompt tokens must be at least 1", max_tokens);
  std::vector<int32_t> ids = tokenizer.encode(chat_prompt(prompt));
  const bool truncated = static_cast<int64_t>(ids.size()) > max_tokens;
  if (truncated) ids.resize(static_cast<std::size_t>(max_tokens));
  return {std::move(ids), truncated};
}

}  // namespace nostos
