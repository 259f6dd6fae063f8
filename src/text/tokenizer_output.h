// Owns writing a tokenizer as the files of a checkpoint's tokenizer folder. The vocabulary of a GGUF file becomes a
// folder by it.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "text/tokenizer_files.h"

namespace nostos {

/// What a tokenizer's files say beside the definition.
struct TokenizerWords {
  std::string chat_template;  ///< Jinja, may be empty
  std::string end, pad;       ///< tokens, may be empty
};

/// \return the files of the older layout, by their names: vocab.json, merges.txt and tokenizer_config.json, of which
/// read_tokenizer_files() makes the definition again.
std::map<std::string, std::string> tokenizer_texts(const TokenizerDefinition& definition, const TokenizerWords& words);

/// \return the same of a GGUF file. \throws Error model as parse_gguf_tokenizer()
std::map<std::string, std::string> gguf_tokenizer_texts(const GgufHeader& header, const std::string& file);

}  // namespace nostos
