// Owns what nostos writes and reads of Exif: the smallest block that carries a comment, in which JPEG and WebP files
// keep their settings because they have no text chunks, and how a camera was held.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace nostos {

/// \return a big-endian TIFF structure with the Exif tag UserComment in UTF-16 alone, as WebUI tools write it.
/// \param comment UTF-8; invalid sequences and NUL become U+FFFD
/// Source: Exif 2.32 (CIPA DC-008), sections 4.6.2 and 4.6.5
std::vector<uint8_t> exif_user_comment(std::string_view comment);

/// \param exif a TIFF structure of either byte order, without the name that JPEG has before it
/// \return the tag Orientation of its first directory, 1 to 8; 1, which turns nothing, where there is none or the
/// structure is damaged.
int exif_orientation(std::span<const uint8_t> exif);

}  // namespace nostos
