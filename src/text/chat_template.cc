// Implements Qwen3's chat template for one user message, and truncation.
#include "text/chat_template.h"

#include <utility>

#include "base/error.h"

namespace nostos {

std::string chat_prompt(std::string_view prompt, Thinking thinking) {
  return fmt::format("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}", prompt,
                     thinking == Thinking::disabled ? "<think>\n\n</think>\n\n" : "");
}

namespace {

PromptTokens cut(std::vector<int32_t> ids, int64_t max_tokens) {
  require(max_tokens > 0, ErrorKind::invalid_input, "the limit of {} prompt tokens must be at least 1", max_tokens);
  const bool truncated = static_cast<int64_t>(ids.size()) > max_tokens;
  if (truncated) ids.resize(static_cast<std::size_t>(max_tokens));
  return {std::move(ids), truncated};
}

}  // namespace

PromptTokens tokenize_prompt(const Tokenizer& tokenizer, std::string_view prompt, int64_t max_tokens,
                             Thinking thinking) {
  return cut(tokenizer.encode(chat_prompt(prompt, thinking)), max_tokens);
}

PromptTokens tokenize_bytes(std::string_view prompt, int64_t max_tokens, int64_t vocabulary, Thinking thinking) {
  std::vector<int32_t> ids;
  for (const char byte : chat_prompt(prompt, thinking))
    ids.push_back(static_cast<int32_t>(static_cast<unsigned char>(byte) % vocabulary));
  return cut(std::move(ids), max_tokens);
}

}  // namespace nostos
