// Owns the pre-tokenizer: it cuts text into words with the regular expression that the tokenizer's files name.
// Tokenizer calls it before byte-pair encoding.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace nostos {

/// Qwen2's pattern, for checkpoints whose files do not spell it out.
extern const char* const kQwen2Pattern;

/// Cuts text where a regular expression matches. Immutable; one object may serve many threads.
class PreTokenizer {
 public:
  /// \param pattern in the syntax that Oniguruma (the `tokenizers` library's engine) and PCRE2 share; classes are
  /// Unicode's.
  /// \param file names the origin of the pattern in errors.
  /// \throws Error model if the pattern does not compile.
  PreTokenizer(const std::string& pattern, std::string file);

  /// \param text valid UTF-8
  /// \return the words of `text` in order, as views into `text`: every match and every gap between matches, together
  /// the whole text. This is the `tokenizers` library's Split with behaviour "Isolated".
  /// \throws Error model if matching exceeds its work limit, which Qwen2's pattern cannot.
  std::vector<std::string_view> split(std::string_view text) const;

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::string file_;
  std::unique_ptr<pcre2_real_code_8, CodeDeleter> code_;
};

}  // namespace nostos
