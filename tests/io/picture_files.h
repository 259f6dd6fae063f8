// Owns the pictures and lists of tests/data/io/make_pictures.py, for tests of what reads and resamples pictures.
#pragma once

#include <fstream>
#include <string>
#include <vector>

#include "io/image.h"

namespace nostos {

/// \return the lines of a list of tests/data/io, without its comments.
inline std::vector<std::string> lines_of(const std::string& name) {
  std::ifstream file(NOSTOS_SOURCE_DIR "/tests/data/io/" + name);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') lines.push_back(line);
  }
  return lines;
}

/// \return the picture that make_pictures.py calls noise(). \param hard its values are 0 and 255 alone
inline Image noise_picture(ImageSize size, bool hard) {
  Image image{size.height, size.width, {}};
  uint32_t value = static_cast<uint32_t>(size.height * 65537 + size.width);
  for (int64_t i = 0; i < size.height * size.width * 3; ++i) {
    value = value * 1664525u + 1013904223u;
    image.rgb.push_back(static_cast<uint8_t>(hard ? (value >> 31) * 255 : value >> 24));
  }
  return image;
}

}  // namespace nostos
