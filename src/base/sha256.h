// Owns SHA-256, by which files are recognised where somebody may want them to be mistaken for others.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace nostos {

/// \return the SHA-256 of `bytes` as 64 hexadecimal digits in lower case, as sha256sum prints it.
std::string sha256(std::span<const uint8_t> bytes);

}  // namespace nostos
