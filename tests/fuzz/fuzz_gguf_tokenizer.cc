// Fuzzes the tokenizer in a GGUF file's keys. The input: a byte that chooses what is changed in a small sound
// tokenizer, and the change: more tokens, a line each with the type as a digit in front; the merges, a line each; the
// kind of pre-tokenizer; the kind of model; or an option.
#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>

#include "base/error.h"
#include "text/gguf_of_tokenizer.h"
#include "text/tokenizer.h"

namespace {

using nostos::GgufTokenizer;

GgufTokenizer make_sound() {
  nostos::TokenizerDefinition definition =
      nostos::read_tokenizer_files(NOSTOS_SOURCE_DIR "/tests/data/text/small_tokenizer");
  std::erase_if(definition.vocabulary, [](const auto& entry) { return entry.second >= 259; });  // bytes, three merged
  definition.merges.resize(3);
  definition.added_tokens = {{"<|im_start|>", 259}};
  return GgufTokenizer(definition, 260);
}

void change(GgufTokenizer& tokenizer, uint8_t what, const std::string& input) {
  std::istringstream lines(input);
  if (what == 0) {
    for (std::string line; std::getline(lines, line);) {
      tokenizer.tokens.push_back(line.empty() ? line : line.substr(1));
      tokenizer.types.push_back(line.empty() ? 1 : line[0] - '0');
    }
  } else if (what == 1) {
    tokenizer.merges.clear();
    for (std::string line; std::getline(lines, line);) tokenizer.merges.push_back(line);
  } else if (what == 2) {
    tokenizer.pre = input;
  } else if (what == 3) {
    tokenizer.model = input;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const GgufTokenizer sound = make_sound();
  if (size == 0) return 0;
  const std::string input(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto what = static_cast<uint8_t>(data[0] % 5);
  GgufTokenizer tokenizer = sound;
  change(tokenizer, what, input);
  nostos::GgufBytes file = tokenizer.file();
  if (what == 4) file.key("tokenizer.ggml.add_bos_token", nostos::GgufType::boolean, input.substr(0, 1));
  try {
    const nostos::Tokenizer loaded(nostos::gguf_tokenizer(file.bytes()));
    for (const int32_t id : loaded.encode("A caf\xc3\xa9 <|im_end|> " + input)) {
      if (id < 0 || id >= loaded.vocabulary_size()) std::abort();
    }
  } catch (const nostos::Error& error) {
    if (error.kind() != nostos::ErrorKind::model) std::abort();
  }
  return 0;
}
