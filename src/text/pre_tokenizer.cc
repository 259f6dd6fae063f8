// Implements the pre-tokenizer on PCRE2, with the character classes of the `tokenizers` library's engine, Oniguruma.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pre_tokenizer.h"

#include <pcre2.h>

#include <array>
#include <cstdint>

#include "base/error.h"
#include "text/unicode_differences.h"

namespace nostos {

const char* const kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

constexpr std::size_t kMaxPatternBytes = 4096;

/// \return a character of the same encoded length that PCRE2 classes as Oniguruma classes `code_point`, or an empty
/// view if it classes `code_point` itself so.
std::string_view stand_in(uint32_t code_point, std::size_t length_bytes) {
  if (in_ranges(kFormerSpaces, code_point)) return "\u200B";
  if (in_ranges(kNewerLetters, code_point)) return length_bytes == 3 ? "\u4E00" : "\U00020000";
  if (in_ranges(kNewerNumbers, code_point)) return "\U0001D7CE";
  return {};
}

/// \return `text` with stand-ins where PCRE2's character classes differ from Oniguruma's; matches lie at the same
/// offsets.
std::string with_stand_ins(std::string_view text) {
  std::string subject(text);
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = [&](std::size_t offset) { return static_cast<unsigned char>(text[i + offset]); };
    if (byte(0) < 0xE0) {  // the rest of one- and two-byte characters is skipped byte by byte
      ++i;
      continue;
    }
    const std::size_t length = byte(0) < 0xF0 ? 3 : 4;
    uint32_t code_point = byte(0) & (length == 3 ? 0x0F : 0x07);
    for (std::size_t k = 1; k < length; ++k) code_point = code_point << 6 | (byte(k) & 0x3F);
    if (const auto replacement = stand_in(code_point, length); !replacement.empty()) {
      subject.replace(i, length, replacement);
    }
    i += length;
  }
  return subject;
}

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(error, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

/// Matches `code` at or after `offset`. PCRE2's compiled code has a small stack; what it cannot hold, the interpreter
/// can.
int match(const pcre2_code* code, std::string_view subject, std::size_t offset, pcre2_match_data* data) {
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const int result = pcre2_match(code, text, subject.size(), offset, PCRE2_NO_UTF_CHECK, data, nullptr);
  if (result != PCRE2_ERROR_JIT_STACKLIMIT) return result;
  return pcre2_match(code, text, subject.size(), offset, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, nullptr);
}

std::size_t next_character(std::string_view text, std::size_t position) {
  do {
    ++position;
  } while (position < text.size() && (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80);
  return position;
}

}  // namespace

void PreTokenizer::CodeDeleter::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

PreTokenizer::PreTokenizer(const std::string& pattern, std::string file) : file_(std::move(file)) {
  require(pattern.size() <= kMaxPatternBytes, ErrorKind::model,
          "{}: the pre-tokenizer's pattern has {} bytes; at most {} are supported", file_, pattern.size(),
          kMaxPatternBytes);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &error_offset, nullptr));
  require(code_ != nullptr, ErrorKind::model, "{}: the pre-tokenizer's pattern is not valid at byte {}: {}", file_,
          error_offset, message_of(error));
  // Without just-in-time compilation (hardened kernels forbid it) the same code is interpreted, so a failure is no
  // error.
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(code_.get(), nullptr), &pcre2_match_data_free);
  require(data != nullptr, ErrorKind::out_of_memory, "out of memory while tokenizing");
  const std::string subject = with_stand_ins(text);

  std::vector<std::string_view> words;
  std::size_t word_begin = 0;
  const auto cut = [&](std::size_t position) {
    if (position <= word_begin) return;
    words.push_back(text.substr(word_begin, position - word_begin));
    word_begin = position;
  };
  for (std::size_t offset = 0; offset < text.size();) {
    const int result = match(code_.get(), subject, offset, data.get());
    if (result == PCRE2_ERROR_NOMATCH) break;
    require(result >= 0, ErrorKind::model, "{}: matching the pre-tokenizer's pattern failed: {}", file_,
            message_of(result));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    cut(span[0]);
    cut(span[1]);
    offset = span[1] > offset ? span[1] : next_character(text, offset);
  }
  cut(text.size());
  return words;
}

}  // namespace nostos
