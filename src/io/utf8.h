// Owns the conversions between UTF-8 and the encodings that image files keep text in, and the rule of names that are
// shown.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nostos {

/// \return the code points of UTF-8 `text`; each maximal invalid sequence becomes U+FFFD, as Unicode recommends.
std::u32string decode_utf8(std::string_view text);

/// \return `points` (none a surrogate or beyond U+10FFFF) as UTF-8.
std::string encode_utf8(std::u32string_view points);

/// \return whether `text` is valid UTF-8 without control characters: a name that lists, logs and URLs can show.
bool is_one_line(std::string_view text);

}  // namespace nostos
