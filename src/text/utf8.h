// Owns the two Unicode steps in front of tokenization: mending invalid UTF-8, and normalization form C.
#pragma once

#include <string>
#include <string_view>

namespace nostos {

/// \return `bytes` as valid UTF-8. Each maximal run that begins a character but does not complete one, and each byte
/// that can begin none, becomes one U+FFFD: what Python's bytes.decode(errors="replace") does and Unicode 15,
/// chapter 3.9, recommends. Surrogates (ED A0 80) and overlong forms are invalid; NUL is not.
std::string replace_invalid_utf8(std::string_view bytes);

/// \return normalization form C of `text`, which must be valid UTF-8, as the `tokenizers` library sees it: marks that
/// are newer than its data (kNewerMarks) stay where they are. Takes O(n log n), also for long runs of combining marks.
/// Source: Unicode Standard Annex 15, with the character data of utf8proc.
std::string normalize_nfc(std::string_view text);

}  // namespace nostos
