// Owns writing a tokenizer as the keys of a GGUF file, for tests, in the way of llama.cpp's converter.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "io/gguf_bytes.h"
#include "text/tokenizer_files.h"

namespace nostos {

/// What a GGUF file says of its tokenizer, to be changed by tests.
struct GgufTokenizer {
  std::string model = "gpt2";
  std::string pre = "qwen2";
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<std::string> merges;

  /// \param rows of the embedding; tokens that are unused fill them up
  GgufTokenizer(const TokenizerDefinition& definition, size_t rows) : tokens(rows), types(rows, 5) {
    for (size_t id = 0; id < rows; ++id) tokens[id] = "[PAD" + std::to_string(id) + "]";
    const auto set = [&](const std::string& text, int32_t id, int32_t type) {
      tokens.at(static_cast<size_t>(id)) = text;
      types.at(static_cast<size_t>(id)) = type;
    };
    for (const auto& [text, id] : definition.vocabulary) set(text, id, 1);
    for (const AddedToken& token : definition.added_tokens)
      set(token.content, token.id, token.content[1] == '|' ? 3 : 4);
    for (const auto& [left, right] : definition.merges) merges.push_back(left + " " + right);
  }

  GgufBytes file() const {
    GgufBytes file;
    file.text("tokenizer.ggml.model", model).text("tokenizer.ggml.pre", pre);
    file.texts("tokenizer.ggml.tokens", tokens).integers("tokenizer.ggml.token_type", types);
    return file.texts("tokenizer.ggml.merges", merges);
  }
};

/// \return the tokenizer in the bytes of a file.
inline TokenizerDefinition gguf_tokenizer(std::string_view bytes) {
  const GgufHeader header = parse_gguf_header(std::as_bytes(std::span(bytes)), bytes.size(), "t.gguf");
  return parse_gguf_tokenizer(header, "t.gguf");
}

}  // namespace nostos
