// Owns the tiny model of each family that tests of whole drawings run over, and what its drawings have.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>

#include "pipeline/drawing_device.h"
#include "pipeline/request.h"
#include "tensor/shape.h"

namespace nostos::tiny {

/// Drawings of one family.
struct Drawings {
  const char* name;
  std::filesystem::path folder;
  int64_t latent_channels, pixels_per_latent;
  bool has_cap = false;                ///< whether the family has cfg_normalization
  int64_t references = 0;              ///< reference images of each drawing
  std::optional<int64_t> padded_to{};  ///< max_sequence_length, where every prompt is padded to it: few, to save time

  /// \return the request without what the family has not, and with references.
  GenerationRequest fitted(GenerationRequest request) const {
    if (!has_cap) request.cfg_normalization = 0;
    if (!request.max_sequence_length) request.max_sequence_length = padded_to;
    for (int64_t i = 0; i < references; ++i) request.images.push_back(reference(i));
    return request;
  }

  /// \return the shape of given latents, f32 [1, channels, height, width].
  Shape latents(int64_t height, int64_t width) const {
    return {1, latent_channels, height / pixels_per_latent, width / pixels_per_latent};
  }

  /// \return a picture of colours, each of another size.
  static ReferenceImage reference(int64_t index) {
    Image image{64 + 12 * index, 84 - 8 * index, {}};
    image.rgb.resize(static_cast<size_t>(image.height * image.width * 3));
    for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(i * i / 7 + 31 * i);
    const ImageSize size{image.height, image.width};
    const std::string hash(64, static_cast<char>('0' + index));
    return {std::to_string(index) + ".png", hash, size, std::make_shared<const Image>(std::move(image))};
  }
};

// Keeps test listings readable.
inline void PrintTo(const Drawings& drawings, std::ostream* out) { *out << drawings.name; }

inline const std::filesystem::path kData = repository() / "tests/data";
inline const Drawings kZImage{"z_image", kData / "tiny/diffusers_test", 16, 2, true};
inline const Drawings kFlux2Klein{"flux2_klein", kData / "klein_tiny/base", 12, 8, false, 0, 48};
inline const Drawings kFlux2KleinEdits{"flux2_klein_edits", kData / "klein_tiny/base", 12, 8, false, 2, 48};
inline const std::array kFamilies{kZImage, kFlux2Klein, kFlux2KleinEdits};

}  // namespace nostos::tiny
