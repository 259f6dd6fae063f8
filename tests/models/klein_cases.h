// Owns access to the reference pictures of FLUX.2-klein that diffusers drew: tests/data/klein_tiny.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "pipeline/request.h"
#include "tensor/tensor.h"

namespace nostos::test {

/// One call of the reference pipeline. Its tensors are described in expected.json's note.
struct KleinCase {
  std::filesystem::path model;  ///< tests/data/klein_tiny/NAME
  nlohmann::json json;

  std::string name() const;  ///< letters, digits and underscores
  std::filesystem::path tensors() const;
  std::vector<double> sigmas() const { return json.value("sigmas", std::vector<double>{}); }
  int64_t images() const { return json.value("images", 1); }
  std::vector<ReferenceImage> references() const;
  GenerationRequest request() const;
};
// Keeps test listings readable.
void PrintTo(const KleinCase& c, std::ostream* out);

/// \param root of the repository
std::vector<KleinCase> klein_cases(const std::filesystem::path& root);

/// \return an 8-bit picture as f32 [height, width, 3] in [-1, 1], as the reference pipeline makes it.
Tensor values_of(const Image& image);

/// \return the picture of a decoder's output f32 [3, height, width], in 8 bits.
Image rounded(ConstView decoded);

}  // namespace nostos::test
