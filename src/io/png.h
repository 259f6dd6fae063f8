// Owns the PNG writer behind encode_image; the readers are in image.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/image.h"

namespace nostos {

/// \return the image and its text as a PNG, see encode_image(). The image's size must be one that a PNG may have.
std::vector<uint8_t> encode_png(const Image& image, std::span<const TextChunk> text);

}  // namespace nostos
