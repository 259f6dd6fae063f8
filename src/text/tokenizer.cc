// Implements the steps from text to token ids.
#include "text/tokenizer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "io/gguf.h"
#include "text/utf8.h"

namespace nostos {

Tokenizer Tokenizer::load(const std::filesystem::path& place) {
  if (!std::filesystem::is_regular_file(place)) return Tokenizer(read_tokenizer_files(place));
  require(is_gguf(place), ErrorKind::model,
          "{}: has no tokenizer: it must be a folder with tokenizer.json, or a GGUF file", place.string());
  return Tokenizer(parse_gguf_tokenizer(GgufFile(place).header(), place.string()));
}

bool Tokenizer::is_there(const std::filesystem::path& place) {
  if (is_gguf(place)) return GgufFile(place).metadata().contains("tokenizer.ggml.model");
  return std::filesystem::exists(place / "tokenizer.json") || std::filesystem::exists(place / "vocab.json");
}

Tokenizer::Tokenizer(TokenizerDefinition definition)
    : encoder_(definition.vocabulary, definition.merges, definition.file),
      pre_tokenizer_(definition.pattern, definition.file),
      added_tokens_(std::move(definition.added_tokens)) {
  std::sort(added_tokens_.begin(), added_tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.content.size() > b.content.size(); });
  const auto grow = [&](int32_t id) { vocabulary_size_ = std::max<int64_t>(vocabulary_size_, int64_t{id} + 1); };
  for (const auto& [token, id] : definition.vocabulary) grow(id);
  for (const AddedToken& token : added_tokens_) grow(token.id);
}

const AddedToken* Tokenizer::added_token_at(std::string_view text) const {
  const auto found = std::find_if(added_tokens_.begin(), added_tokens_.end(),
                                  [&](const AddedToken& token) { return text.starts_with(token.content); });
  return found == added_tokens_.end() ? nullptr : &*found;
}

void Tokenizer::encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
  const std::string normalized = normalize_nfc(text);
  for (const std::string_view word : pre_tokenizer_.split(normalized)) encoder_.encode(word, ids);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  const std::string valid = replace_invalid_utf8(text);
  std::vector<int32_t> ids;
  std::string_view rest = valid;
  std::size_t plain = 0;
  while (plain < rest.size()) {
    const AddedToken* token = added_token_at(rest.substr(plain));
    if (token == nullptr) {
      ++plain;
      continue;
    }
    encode_plain(rest.substr(0, plain), ids);
    ids.push_back(token->id);
    rest.remove_prefix(plain + token->content.size());
    plain = 0;
  }
  encode_plain(rest, ids);
  return ids;
}

}  // namespace nostos
