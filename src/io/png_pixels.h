// Owns how a PNG's pixels are filtered and compressed: fast, by all threads. The PNG writer calls it.
#pragma once

#include <cstdint>
#include <vector>

#include "io/image.h"

namespace nostos {

/// \return the image's pixels as the data of a PNG's IDAT chunks, one chunk for each strip of rows. The chunks together
/// are one zlib stream. The bytes do not depend on the number of threads.
/// \throws Error out_of_memory
std::vector<std::vector<uint8_t>> compress_png_pixels(const Image& image);

}  // namespace nostos
