// Owns access to the reference data made with diffusers, and the measures that results are compared by.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "tensor/tensor.h"

namespace nostos::test {

/// The tiny random models and the embedded one, with their golden files.
struct GoldenModel {
  std::string name;
  std::filesystem::path model;
  std::filesystem::path cases;  ///< JSON file; the tensors of case X are in X.safetensors beside it
};
std::vector<GoldenModel> golden_models();
GoldenModel embedded_model();

/// One picture drawn by the reference.
struct GoldenCase {
  std::string name, prompt, negative_prompt;
  int64_t height = 0, width = 0, steps = 0;
  double guidance_scale = 0, cfg_normalization = 0, cfg_truncation = 1;
  uint64_t seed = 0;
  std::vector<double> sigmas;
  double bf16_psnr_db = 0;  ///< of the reference's own bf16 picture against its float32 one; 0 where not recorded
  std::filesystem::path tensors;
};
std::vector<GoldenCase> read_cases(const GoldenModel& model);

/// \return |a - b| / |b| over float32 tensors of the same number of elements.
double relative_error(ConstView a, ConstView b);

/// \return the PSNR in dB of two pictures in [-1, 1] after clamping to [0, 1].
/// \param channels_last f32 [height, width, channels]. \param channels_first f32 [channels, height, width].
double psnr_db(ConstView channels_last, ConstView channels_first);

/// \return f32 [channels, height, width] of f32 [height, width, channels].
Tensor to_channels_first(ConstView image);
Tensor to_channels_last(ConstView image);

}  // namespace nostos::test
