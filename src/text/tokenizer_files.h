// Owns the reading of a checkpoint's tokenizer files into one checked definition. Tokenizer::load() calls it for a
// folder; for a GGUF file there is parse_gguf_tokenizer(). The parsers take texts, for tests and fuzzing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/byte_pair_encoder.h"

namespace nostos {

struct GgufHeader;

/// Names of all files that a tokenizer's folder may hold for nostos and for other programs.
inline constexpr std::string_view kTokenizerFiles[] = {
    "tokenizer.json",          "tokenizer_config.json", "vocab.json",         "merges.txt",
    "special_tokens_map.json", "added_tokens.json",     "chat_template.jinja"};

/// A token that is recognised by its exact text wherever the text stands, before normalization. "<|im_end|>" is an
/// added token.
struct AddedToken {
  std::string content;
  int32_t id;
};

/// What the files of a Qwen2 tokenizer say. Every id is in [0, 2^31 - 1) and belongs to one text only.
struct TokenizerDefinition {
  std::string file;  ///< names the origin in errors
  std::string pattern;
  Vocabulary vocabulary;
  MergeList merges;
  std::vector<AddedToken> added_tokens;
};

/// Reads `folder`/tokenizer.json or, where there is none, `folder`/vocab.json, merges.txt, tokenizer_config.json and,
/// where that has no "added_tokens_decoder", added_tokens.json.
/// \throws Error model naming file and field, if one is missing or damaged, or asks for a feature other than Qwen2's.
TokenizerDefinition read_tokenizer_files(const std::filesystem::path& folder);

/// The texts of the files of the older layout, which has no tokenizer.json.
struct VocabularyFiles {
  std::string vocabulary;                     ///< vocab.json
  std::string merges;                         ///< merges.txt
  std::string config;                         ///< tokenizer_config.json
  std::optional<std::string> added_tokens{};  ///< added_tokens.json, where it is there: texts to ids
};

/// Reads the older layout from memory.
/// \param folder stands for the files' place in errors.
/// \throws Error model
TokenizerDefinition parse_vocabulary_files(const VocabularyFiles& files, const std::filesystem::path& folder);

/// Reads the text of a tokenizer.json of the `tokenizers` library. The fields "truncation" and "padding" are ignored,
/// because the Python pipelines replace them. The field "decoder" is ignored, too.
/// \param file names the text in errors.
/// \throws Error model
TokenizerDefinition parse_tokenizer_json(std::string_view text, std::string file);

/// Reads the keys `tokenizer.ggml.*` of a GGUF file, as llama.cpp's converter writes them for a Qwen2 tokenizer.
/// Control and user-defined tokens are added tokens. Unused tokens, which fill up the embedding's rows, are left out. A
/// chat template is ignored.
/// \param file names the file in errors.
/// \throws Error model naming file and key, if one is missing or damaged, or asks for a tokenizer other than Qwen2's.
TokenizerDefinition parse_gguf_tokenizer(const GgufHeader& header, std::string file);

}  // namespace nostos
