// Implements writing a tokenizer's files.
#include "text/tokenizer_output.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <vector>

#include "io/gguf.h"

namespace nostos {
namespace {

using Json = nlohmann::ordered_json;

/// \return the token that a key names by its number, "" if there is none.
std::string token_of(const GgufHeader& header, const std::string& key, const TokenizerDefinition& definition) {
  const auto found = header.metadata.find(key);
  if (found == header.metadata.end()) return "";
  const std::string& text = found->second;
  int32_t id = -1;
  std::from_chars(text.data(), text.data() + text.size(), id);
  const auto token = std::ranges::find(definition.added_tokens, id, &AddedToken::id);
  return token == definition.added_tokens.end() ? "" : token->content;
}

}  // namespace

std::map<std::string, std::string> tokenizer_texts(const TokenizerDefinition& definition, const TokenizerWords& words) {
  std::vector<std::pair<int32_t, std::string_view>> tokens;
  for (const auto& [token, id] : definition.vocabulary) tokens.emplace_back(id, token);
  std::ranges::sort(tokens);
  Json vocabulary = Json::object();
  for (const auto& [id, token] : tokens) vocabulary[std::string(token)] = id;

  std::string merges = "#version: 0.2\n";
  for (const auto& [left, right] : definition.merges) merges += left + " " + right + "\n";

  std::vector<AddedToken> added = definition.added_tokens;
  std::ranges::sort(added, {}, &AddedToken::id);
  Json decoder = Json::object();
  for (const AddedToken& token : added) {
    // Qwen's control tokens are <|so|>; the others, e.g. <think>, are part of texts.
    const bool is_special = token.content.starts_with("<|") && token.content.ends_with("|>");
    decoder[std::to_string(token.id)] = {{"content", token.content}, {"lstrip", false},      {"normalized", false},
                                         {"rstrip", false},          {"single_word", false}, {"special", is_special}};
  }
  Json config{{"tokenizer_class", "Qwen2Tokenizer"},
              {"add_bos_token", false},
              {"add_prefix_space", false},
              {"added_tokens_decoder", std::move(decoder)},
              {"bos_token", nullptr},
              {"unk_token", nullptr},
              {"errors", "replace"},
              {"split_special_tokens", false}};
  if (!words.end.empty()) config["eos_token"] = words.end;
  if (!words.pad.empty()) config["pad_token"] = words.pad;
  if (!words.chat_template.empty()) config["chat_template"] = words.chat_template;
  return {{"vocab.json", vocabulary.dump()}, {"merges.txt", merges}, {"tokenizer_config.json", config.dump(2) + "\n"}};
}

std::map<std::string, std::string> gguf_tokenizer_texts(const GgufHeader& header, const std::string& file) {
  const TokenizerDefinition definition = parse_gguf_tokenizer(header, file);
  const auto chat_template = header.metadata.find("tokenizer.chat_template");
  return tokenizer_texts(definition,
                         {.chat_template = chat_template == header.metadata.end() ? "" : chat_template->second,
                          .end = token_of(header, "tokenizer.ggml.eos_token_id", definition),
                          .pad = token_of(header, "tokenizer.ggml.padding_token_id", definition)});
}

}  // namespace nostos
