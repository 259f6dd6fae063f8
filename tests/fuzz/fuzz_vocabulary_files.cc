// Fuzzes the tokenizer's older layout. The input: a byte that chooses one of the files, and the text that replaces it
// in a small sound set of vocab.json, merges.txt, tokenizer_config.json and added_tokens.json.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/file.h"
#include "text/tokenizer.h"

namespace {

using Json = nlohmann::json;

nostos::VocabularyFiles make_sound() {
  const std::string folder = NOSTOS_SOURCE_DIR "/tests/data/text/small_tokenizer/";
  const auto read = [&](const char* name) { return nostos::read_file(folder + name, size_t{1} << 24); };
  Json vocabulary = Json::parse(read("vocab.json"));
  for (auto entry = vocabulary.begin(); entry != vocabulary.end();) {
    entry = entry.value() < 259 ? std::next(entry) : vocabulary.erase(entry);  // the bytes, and three merged tokens
  }
  std::string merges = read("merges.txt");
  size_t end = 0;
  for (int line = 0; line < 4; ++line) end = merges.find('\n', end) + 1;  // the version, and their merges
  merges.resize(end);
  Json config = Json::parse(read("tokenizer_config.json"));
  config.erase("added_tokens_decoder");
  return {vocabulary.dump(), merges, config.dump(), R"({"<|im_end|>": 300})"};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const nostos::VocabularyFiles sound = make_sound();
  if (size == 0) return 0;
  nostos::VocabularyFiles files = sound;
  const std::array<std::string*, 4> texts = {&files.vocabulary, &files.merges, &files.config, &*files.added_tokens};
  *texts[data[0] % texts.size()] = {reinterpret_cast<const char*>(data + 1), size - 1};
  try {
    const nostos::Tokenizer tokenizer(nostos::parse_vocabulary_files(files, "fuzz"));
    for (const int32_t id : tokenizer.encode("A caf\xc3\xa9 <|im_end|>")) {
      if (id < 0 || id >= tokenizer.vocabulary_size()) std::abort();
    }
  } catch (const nostos::Error& error) {
    if (error.kind() != nostos::ErrorKind::model) std::abort();
  }
  return 0;
}
