// Implements the reading of tokenizer.json, of vocab.json + merges.txt + tokenizer_config.json, and of GGUF's keys.
#include "text/tokenizer_files.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/json_nesting.h"
#include "io/file.h"
#include "io/gguf.h"
#include "io/unfinished.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace nostos {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 32;  // a tokenizer's files need 6
constexpr int32_t kMaxId = std::numeric_limits<int32_t>::max() - 1;

std::string read_text(const std::filesystem::path& path) {
  constexpr std::size_t kMaxBytes = std::size_t{256} << 20;  // Qwen3's tokenizer.json has 11 MB
  return read_file(path, kMaxBytes, ErrorKind::model);
}

/// \return `value` for an error message: short, one line, valid UTF-8.
std::string excerpt(const Json& value) {
  constexpr std::size_t kMaxBytes = 60;
  if (value.is_structured() && value.size() > 8) {
    return fmt::format("an {} of {} elements", value.type_name(), value.size());
  }
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > kMaxBytes) text = text.substr(0, kMaxBytes) + "...";
  return text;
}

/// \return whether `value` is a whole number in the range of token ids.
bool is_id(const Json& value) { return value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{kMaxId}; }

/// A value of a JSON file that knows its place, for errors.
class Field {
 public:
  Field(const Json& value, std::string_view file, std::string path)
      : value_(value), file_(file), path_(std::move(path)) {}

  bool is_null() const { return value_.is_null(); }
  bool has(const char* name) const { return value_.is_object() && value_.contains(name); }

  Field member(const char* name) const {
    object();
    const auto found = value_.find(name);
    std::string path = path_.empty() ? name : fmt::format("{}.{}", path_, name);
    if (found == value_.end()) fail(ErrorKind::model, "{}: the field '{}' is missing", file_, path);
    return {*found, file_, std::move(path)};
  }
  /// \return `value`, an element of this, as the field with the index `index`.
  Field element(const Json& value, std::string_view index) const {
    return {value, file_, fmt::format("{}[{}]", path_, index)};
  }

  const Json::object_t& object() const {
    if (!value_.is_object()) wrong("an object");
    return value_.get_ref<const Json::object_t&>();
  }
  const Json::array_t& array() const {
    if (!value_.is_array()) wrong("an array");
    return value_.get_ref<const Json::array_t&>();
  }
  const std::string& string() const {
    if (!value_.is_string()) wrong("a string");
    return value_.get_ref<const std::string&>();
  }
  int32_t id() const {
    if (!is_id(value_)) wrong(fmt::format("a token id from 0 to {}", kMaxId));
    return value_.get<int32_t>();
  }

  /// Requires the member `name` to equal `expected`: what nostos implements.
  void expect(const char* name, const Json& expected) const {
    const Field found = member(name);
    if (found.value_ != expected) found.unsupported(excerpt(expected));
  }
  /// Requires the option `name` to be off: absent, null, false or an empty string.
  void expect_off(const char* name) const {
    if (!has(name)) return;
    const Field found = member(name);
    if (!found.value_.is_null() && found.value_ != Json(false) && found.value_ != Json("")) found.unsupported("none");
  }

  [[noreturn]] void wrong(std::string_view right) const {
    fail(ErrorKind::model, "{}: {} is {}; it must be {}", file_, place(), excerpt(value_), right);
  }
  [[noreturn]] void unsupported(std::string_view supported) const {
    fail(ErrorKind::model, "{}: {} is {}, which is not supported; only Qwen2 tokenizers are, with {} here", file_,
         place(), excerpt(value_), supported);
  }

 private:
  std::string place() const { return path_.empty() ? "its value" : fmt::format("the field '{}'", path_); }

  const Json& value_;
  std::string_view file_;
  std::string path_;
};

Json parse_json(std::string_view text, std::string_view file) {
  if (const auto at = nested_too_deep(text, kMaxDepth))
    fail(ErrorKind::model, "{}: JSON nested deeper than {} at byte {}", file, kMaxDepth, *at);
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    fail(ErrorKind::model, "{}: not valid JSON at byte {}", file, error.byte);
  } catch (const Json::exception& error) {  // a number out of range
    fail(ErrorKind::model, "{}: not valid JSON: {}", file, error.what());
  }
}

Vocabulary read_vocabulary(const Field& field) {
  Vocabulary vocabulary;
  vocabulary.reserve(field.object().size());
  for (const auto& [token, id] : field.object()) {
    // The place of an entry is made up only for one that is wrong: there are 150,000 of them.
    vocabulary.emplace(token, is_id(id) ? id.get<int32_t>() : field.element(id, excerpt(token)).id());
  }
  return vocabulary;
}

/// Reads merges as pairs ["a", "b"] or, as older files have them, as strings "a b".
MergeList read_merges(const Field& field) {
  MergeList merges;
  merges.reserve(field.array().size());
  for (const Json& merge : field.array()) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.emplace_back(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
      continue;
    }
    const std::string* text = merge.get_ptr<const std::string*>();
    if (text == nullptr || std::count(text->begin(), text->end(), ' ') != 1) {
      field.element(merge, std::to_string(merges.size())).wrong("a pair of tokens");
    }
    const std::size_t space = text->find(' ');
    merges.emplace_back(text->substr(0, space), text->substr(space + 1));
  }
  return merges;
}

AddedToken read_added_token(const Field& field, int32_t id) {
  for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) field.expect(flag, false);
  const Field content = field.member("content");
  if (content.string().empty()) content.wrong("a text that is not empty");
  return {content.string(), id};
}

/// Checks what both layouts must fulfil: an id has one text, and an added token one id.
void check_ids(const TokenizerDefinition& definition) {
  std::unordered_map<int32_t, std::string_view> text_of_id;
  text_of_id.reserve(definition.vocabulary.size() + definition.added_tokens.size());
  const auto claim = [&](int32_t id, std::string_view token) {
    const auto [entry, is_new] = text_of_id.emplace(id, token);
    require(is_new || entry->second == token, ErrorKind::model,
            "{}: the token id {} is given to both '{:.60}' and '{:.60}'", definition.file, id, entry->second, token);
  };
  for (const auto& [token, id] : definition.vocabulary) claim(id, token);
  std::unordered_set<std::string_view> added;
  for (const auto& [content, id] : definition.added_tokens) {
    claim(id, content);
    require(added.insert(content).second, ErrorKind::model, "{}: the added token '{:.60}' is listed twice",
            definition.file, content);
    const auto found = definition.vocabulary.find(content);
    require(found == definition.vocabulary.end() || found->second == id, ErrorKind::model,
            "{}: the added token '{:.60}' has the id {}, but the vocabulary gives it {}", definition.file, content, id,
            found == definition.vocabulary.end() ? id : found->second);
  }
}

/// \return the pattern of the one supported pre-tokenizer: a Split, then the byte alphabet.
std::string read_pattern(const Field& pre_tokenizer) {
  pre_tokenizer.expect("type", "Sequence");
  const Field steps = pre_tokenizer.member("pretokenizers");
  if (steps.array().size() != 2) steps.unsupported("a Split and a ByteLevel");
  const Field split = steps.element(steps.array()[0], "0");
  split.expect("type", "Split");
  split.expect("behavior", "Isolated");
  split.expect("invert", false);
  const Field byte_level = steps.element(steps.array()[1], "1");
  byte_level.expect("type", "ByteLevel");
  byte_level.expect("add_prefix_space", false);
  byte_level.expect("use_regex", false);
  return split.member("pattern").member("Regex").string();
}

/// Accepts post-processors that add no token: none, the byte alphabet's offsets, or a template of the text alone (as
/// transformers 5 saves).
void check_post_processor(const Field& post_processor) {
  if (post_processor.is_null()) return;
  if (post_processor.member("type").string() != "TemplateProcessing") return post_processor.expect("type", "ByteLevel");
  const Field single = post_processor.member("single");
  const Json text_alone = Json::parse(R"({"Sequence": {"id": "A", "type_id": 0}})");
  if (single.array().size() != 1 || single.array()[0] != text_alone) single.unsupported("the text alone");
}

MergeList read_merges_txt(const std::string& text, std::string_view file) {
  MergeList merges;
  std::istringstream lines(text);
  int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line.starts_with("#version")) continue;
    const std::size_t space = line.find(' ');
    require(std::count(line.begin(), line.end(), ' ') == 1 && space > 0 && space + 1 < line.size(), ErrorKind::model,
            "{}: line {} is not two tokens with a space between", file, number);
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

/// \return the tokens of tokenizer_config.json's "added_tokens_decoder", which has the ids as keys.
std::vector<AddedToken> read_added_tokens_decoder(const Field& decoder, std::string_view file) {
  std::vector<AddedToken> tokens;
  for (const auto& [key, token] : decoder.object()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    require(error == std::errc() && end == key.data() + key.size() && id >= 0 && id <= kMaxId, ErrorKind::model,
            "{}: 'added_tokens_decoder' has the key {}; its keys must be token ids from 0 to {}", file, excerpt(key),
            kMaxId);
    tokens.push_back(read_added_token(decoder.element(token, excerpt(key)), id));
  }
  return tokens;
}

/// \return the tokens of added_tokens.json, which are matched as they stand, as all that Qwen2 tokenizers add.
std::vector<AddedToken> read_added_tokens_json(const std::string& text, const std::string& file) {
  const Json json = parse_json(text, file);
  std::vector<AddedToken> tokens;
  for (const auto& [content, id] : read_vocabulary(Field(json, file, ""))) {
    require(!content.empty(), ErrorKind::model, "{}: the added token with the id {} is empty", file, id);
    tokens.push_back({content, id});
  }
  return tokens;
}

/// The keys of a GGUF file's tokenizer.
class GgufKeys {
 public:
  GgufKeys(const GgufHeader& header, const std::string& file) : header_(header), file_(file) {}

  /// Requires the text under `key` to equal `expected`: what nostos implements.
  void expect(const std::string& key, std::string_view expected) const {
    const auto found = header_.metadata.find(key);
    if (found == header_.metadata.end()) missing(key);
    if (found->second != expected) unsupported(key, found->second, expected);
  }
  /// Requires the option `key` to be off: absent or false.
  void expect_off(const std::string& key) const {
    const auto found = header_.metadata.find(key);
    if (found != header_.metadata.end() && found->second != "false") unsupported(key, found->second, "false");
  }
  std::vector<std::string_view> strings(const std::string& key) const {
    return elements(key, array(key).strings(), "strings");
  }
  std::vector<int64_t> integers(const std::string& key) const {
    return elements(key, array(key).integers(), "integers");
  }

 private:
  const GgufArray& array(const std::string& key) const {
    const auto found = header_.arrays.find(key);
    if (found == header_.arrays.end()) missing(key);
    return found->second;
  }
  template <class T>
  T elements(const std::string& key, std::optional<T> found, std::string_view what) const {
    require(found.has_value(), ErrorKind::model, "{}: the key '{}' must be an array of {}", file_, key, what);
    return std::move(*found);
  }
  [[noreturn]] void missing(const std::string& key) const {
    const bool is_there = header_.metadata.contains(key) || header_.arrays.contains(key);
    fail(ErrorKind::model, "{}: the key '{}' {}", file_, key,
         is_there ? "is of another type than it must be" : "is missing, so the file holds no whole tokenizer");
  }
  [[noreturn]] void unsupported(const std::string& key, std::string_view found, std::string_view supported) const {
    fail(ErrorKind::model,
         "{}: the key '{}' is '{:.60}', which is not supported; only Qwen2 tokenizers are, with '{}' here", file_, key,
         found, supported);
  }

  const GgufHeader& header_;
  const std::string& file_;
};

/// The types of tokens in llama.cpp (its llama_token_type), as far as a Qwen2 tokenizer has them.
enum GgufTokenType : int64_t { kNormalToken = 1, kControlToken = 3, kUserDefinedToken = 4, kUnusedToken = 5 };

/// \return whether the token stands for nothing: older converters call these user-defined.
bool is_filling(std::string_view token, int32_t id, int64_t type) {
  return type == kUnusedToken || (type == kUserDefinedToken && token == fmt::format("[PAD{}]", id));
}

void read_gguf_tokens(const GgufKeys& keys, TokenizerDefinition& definition) {
  const std::string tokens_key = "tokenizer.ggml.tokens";
  const std::string types_key = "tokenizer.ggml.token_type";
  const std::vector<std::string_view> tokens = keys.strings(tokens_key);
  const std::vector<int64_t> types = keys.integers(types_key);
  require(tokens.size() == types.size() && tokens.size() <= std::size_t{kMaxId}, ErrorKind::model,
          "{}: the key '{}' has {} elements and '{}' {}: they must have equally many, at most {}", definition.file,
          tokens_key, tokens.size(), types_key, types.size(), kMaxId);
  definition.vocabulary.reserve(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (is_filling(tokens[i], id, types[i])) continue;
    // An added token that begins amid a character would cut a text there.
    require(replace_invalid_utf8(tokens[i]) == tokens[i], ErrorKind::model,
            "{}: the key '{}' has a text for the token {} that is no UTF-8", definition.file, tokens_key, id);
    if (types[i] == kControlToken || types[i] == kUserDefinedToken) {
      require(!tokens[i].empty(), ErrorKind::model, "{}: the key '{}' has an empty text for the added token {}",
              definition.file, tokens_key, id);
      definition.added_tokens.push_back({std::string(tokens[i]), id});
      continue;
    }
    require(
        types[i] == kNormalToken, ErrorKind::model,
        "{}: the key '{}' gives the token {} ('{:.60}') the type {}; the tokens of a Qwen2 tokenizer are normal (1), "
        "control (3), user-defined (4) or unused (5)",
        definition.file, types_key, id, tokens[i], types[i]);
    const auto [entry, is_new] = definition.vocabulary.emplace(tokens[i], id);
    require(is_new, ErrorKind::model, "{}: the key '{}' has the token '{:.60}' twice, as {} and {}", definition.file,
            tokens_key, tokens[i], entry->second, id);
  }
}

MergeList read_gguf_merges(const GgufKeys& keys, const std::string& file) {
  MergeList merges;
  for (const std::string_view merge : keys.strings("tokenizer.ggml.merges")) {
    const std::size_t space = merge.find(' ');
    require(std::count(merge.begin(), merge.end(), ' ') == 1 && space > 0 && space + 1 < merge.size(), ErrorKind::model,
            "{}: element {} of the key 'tokenizer.ggml.merges' is '{:.60}', must be two tokens with a space between",
            file, merges.size(), merge);
    merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return merges;
}

}  // namespace

TokenizerDefinition parse_tokenizer_json(std::string_view text, std::string file) {
  const Json json = parse_json(text, file);
  const Field root(json, file, "");
  TokenizerDefinition definition;

  const Field model = root.member("model");
  model.expect("type", "BPE");
  for (const char* option : {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                             "byte_fallback", "ignore_merges"}) {
    model.expect_off(option);
  }
  root.member("normalizer").expect("type", "NFC");
  definition.pattern = read_pattern(root.member("pre_tokenizer"));
  check_post_processor(root.member("post_processor"));

  definition.vocabulary = read_vocabulary(model.member("vocab"));
  definition.merges = read_merges(model.member("merges"));
  const Field added_tokens = root.member("added_tokens");
  for (const Json& token : added_tokens.array()) {
    const Field field = added_tokens.element(token, std::to_string(definition.added_tokens.size()));
    definition.added_tokens.push_back(read_added_token(field, field.member("id").id()));
  }
  definition.file = std::move(file);
  check_ids(definition);
  return definition;
}

TokenizerDefinition parse_vocabulary_files(const VocabularyFiles& files, const std::filesystem::path& folder) {
  TokenizerDefinition definition;
  definition.file = (folder / "vocab.json").string();
  const Json vocabulary = parse_json(files.vocabulary, definition.file);
  definition.vocabulary = read_vocabulary(Field(vocabulary, definition.file, ""));
  definition.merges = read_merges_txt(files.merges, (folder / "merges.txt").string());

  const std::string config_file = (folder / "tokenizer_config.json").string();
  const Json config = parse_json(files.config, config_file);
  const Field root(config, config_file, "");
  // vocab.json and merges.txt look the same for GPT-2; only the class says how text is cut into words.
  const Field tokenizer_class = root.member("tokenizer_class");
  if (tokenizer_class.string() != "Qwen2Tokenizer" && tokenizer_class.string() != "Qwen2TokenizerFast") {
    tokenizer_class.unsupported("\"Qwen2Tokenizer\"");
  }
  root.expect_off("add_prefix_space");
  root.expect_off("add_bos_token");
  definition.pattern = kQwen2Pattern;
  if (root.has("added_tokens_decoder")) {
    definition.added_tokens = read_added_tokens_decoder(root.member("added_tokens_decoder"), config_file);
  } else {
    require(files.added_tokens.has_value(), ErrorKind::model,
            "{}: the field 'added_tokens_decoder' is missing, and so is added_tokens.json, one of which must list the "
            "added tokens",
            config_file);
    definition.added_tokens = read_added_tokens_json(*files.added_tokens, (folder / "added_tokens.json").string());
  }
  check_ids(definition);
  return definition;
}

TokenizerDefinition parse_gguf_tokenizer(const GgufHeader& header, std::string file) {
  TokenizerDefinition definition;
  definition.file = std::move(file);
  const GgufKeys keys(header, definition.file);
  keys.expect("tokenizer.ggml.model", "gpt2");
  keys.expect("tokenizer.ggml.pre", "qwen2");
  for (const char* option : {"add_bos_token", "add_eos_token", "add_space_prefix"})
    keys.expect_off(std::string("tokenizer.ggml.") + option);
  definition.pattern = kQwen2Pattern;
  read_gguf_tokens(keys, definition);
  definition.merges = read_gguf_merges(keys, definition.file);
  check_ids(definition);
  return definition;
}

TokenizerDefinition read_tokenizer_files(const std::filesystem::path& folder) {
  // A link to nothing is there, too: reading it says where it leads.
  const auto is_there = [&](const char* name) {
    std::error_code ignored;
    return std::filesystem::exists(std::filesystem::symlink_status(folder / name, ignored));
  };
  if (is_there("tokenizer.json")) {
    const std::string file = (folder / "tokenizer.json").string();
    return parse_tokenizer_json(read_text(file), file);
  }
  if (!is_there("vocab.json")) {
    fail(ErrorKind::model,
         "{}: holds neither tokenizer.json nor vocab.json, one of which a tokenizer folder must have{}",
         folder.string(), partial_download(folder));
  }
  VocabularyFiles files{read_text(folder / "vocab.json"), read_text(folder / "merges.txt"),
                        read_text(folder / "tokenizer_config.json")};
  if (is_there("added_tokens.json")) files.added_tokens = read_text(folder / "added_tokens.json");
  return parse_vocabulary_files(files, folder);
}

}  // namespace nostos
