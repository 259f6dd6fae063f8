// Owns the smallest Exif block that carries a comment. JPEG and WebP files keep their settings in one, because they
// have no text chunks.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace nostos {

/// \return a big-endian TIFF structure with the Exif tag UserComment in UTF-16 alone, as WebUI tools write it.
/// \param comment UTF-8; invalid sequences and NUL become U+FFFD
/// Source: Exif 2.32 (CIPA DC-008), sections 4.6.2 and 4.6.5
std::vector<uint8_t> exif_user_comment(std::string_view comment);

}  // namespace nostos
