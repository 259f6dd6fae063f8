// Implements the reading of tokenizer.json and of vocab.json + merges.txt + tokenizer_config.json.
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
#include "io/file.h"
#include "io/unfinished.h"
#include "text/pre_tokenizer.h"

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

/// Rejects nesting that the JSON parser, which knows no limit, would follow.
void require_shallow(std::string_view text, std::string_view file) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      require(++depth <= kMaxDepth, ErrorKind::model, "{}: JSON nested deeper than {} at byte {}", file, kMaxDepth, i);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

Json parse_json(std::string_view text, std::string_view file) {
  require_shallow(text, file);
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
