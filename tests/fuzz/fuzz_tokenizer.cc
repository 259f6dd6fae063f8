// Fuzzes the reading of tokenizer.json and encoding. The input: a byte that chooses a member of a small sound
// tokenizer.json (or the whole of it), the text that replaces this member, a NUL byte, and a text to encode.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/chat_template.h"

namespace {

using Json = nlohmann::json;

const char* const kSmallTokenizer = NOSTOS_SOURCE_DIR "/tests/data/text/small_tokenizer";

/// \return tokenizer.json's text, once for each member that may be replaced, cut in two where the member stood.
std::vector<std::pair<std::string, std::string>> make_documents() {
  std::ifstream stream(std::string(kSmallTokenizer) + "/tokenizer.json");
  Json small = Json::parse(stream);
  Json& vocabulary = small["model"]["vocab"];
  for (auto entry = vocabulary.begin(); entry != vocabulary.end();) {
    entry = entry.value() < 259 ? std::next(entry) : vocabulary.erase(entry);  // the bytes, and three merged tokens
  }
  small["model"]["merges"].erase(small["model"]["merges"].begin() + 3, small["model"]["merges"].end());
  std::vector<std::pair<std::string, std::string>> documents = {{"", ""}};
  for (const char* member :
       {"/model/merges", "/added_tokens", "/model/vocab/!", "/pre_tokenizer", "/normalizer", "/model/dropout",
        "/pre_tokenizer/pretokenizers/0/pattern/Regex", "/added_tokens/0/content", "/added_tokens/0/id"}) {
    Json document = small;
    document[Json::json_pointer(member)] = "HOLE";
    const std::string text = document.dump();
    const std::size_t hole = text.find("\"HOLE\"");
    documents.emplace_back(text.substr(0, hole), text.substr(hole + 6));
  }
  return documents;
}

/// A tokenizer from hostile JSON must be refused with an Error or encode anything without harm.
void encode_with_given(const std::string& json, std::string_view text) {
  try {
    const nostos::Tokenizer tokenizer(nostos::parse_tokenizer_json(json, "fuzz.json"));
    for (const int32_t id : tokenizer.encode(text)) {
      if (id < 0 || id >= tokenizer.vocabulary_size()) std::abort();
    }
  } catch (const nostos::Error& error) {
    if (error.kind() != nostos::ErrorKind::model) std::abort();
  }
}

/// A sound tokenizer must encode anything, and cut as asked.
void encode_with_sound(std::string_view text) {
  static const auto tokenizer = nostos::Tokenizer::load(kSmallTokenizer);
  const nostos::PromptTokens prompt = nostos::tokenize_prompt(tokenizer, text, 64);
  if (prompt.ids.size() > 64 || prompt.ids.front() != 2046) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static const auto documents = make_documents();
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::size_t end = std::min(input.find('\0'), input.size());
  const std::string_view text = input.substr(std::min(end + 1, input.size()));
  const auto& [before, after] = documents[data[0] % documents.size()];
  encode_with_given(before + std::string(input.substr(0, end)) + after, text);
  encode_with_sound(text);
  return 0;
}
