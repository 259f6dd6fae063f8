// Owns the PNG writer behind encode_image(). Call encode_image(); the readers of PNGs are in image.h, too.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/image.h"

namespace nostos {

/// \param image of a size that a PNG may have
/// \return the image and its text as a PNG, see encode_image().
std::vector<uint8_t> encode_png(const Image& image, std::span<const TextChunk> text);

}  // namespace nostos
