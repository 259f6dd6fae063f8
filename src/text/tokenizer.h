// Owns the tokenizer of the text encoder: Qwen2's byte-level BPE. Load one for each model, and encode every prompt with
// it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "text/byte_pair_encoder.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_files.h"

namespace nostos {

/// Turns text into token ids as the Python `tokenizers` library does. A Tokenizer is immutable; one object may serve
/// many threads.
class Tokenizer {
 public:
  /// Reads the files of a checkpoint's tokenizer folder: tokenizer.json, or vocab.json + merges.txt +
  /// tokenizer_config.json; or the vocabulary in a GGUF file. \throws Error model naming file and field
  static Tokenizer load(const std::filesystem::path& place);
  /// \return whether the folder has a tokenizer's first file, or the GGUF file a vocabulary.
  static bool is_there(const std::filesystem::path& place);

  /// \throws Error model if merges and vocabulary do not fit, or the pattern does not compile.
  explicit Tokenizer(TokenizerDefinition definition);

  /// \return the token ids of `text`. Invalid UTF-8 is mended first: see replace_invalid_utf8(). Added tokens are
  /// recognised by their exact text, the longest first. The text between added tokens is brought to NFC, cut into words
  /// and merged. Nothing is added in front or behind. Takes O(n log n).
  std::vector<int32_t> encode(std::string_view text) const;

  /// \return the largest id + 1. The text encoder's embedding must have as many rows.
  int64_t vocabulary_size() const { return vocabulary_size_; }

 private:
  const AddedToken* added_token_at(std::string_view text) const;
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const;

  BytePairEncoder encoder_;
  PreTokenizer pre_tokenizer_;
  std::vector<AddedToken> added_tokens_;  // longest first
  int64_t vocabulary_size_ = 0;
};

}  // namespace nostos
