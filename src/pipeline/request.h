// Owns what a user asks for: one generation request and its limits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/noise.h"

namespace nostos {

inline constexpr int64_t kMaxSteps = 1000;
inline constexpr int64_t kMaxOutputs = 64;
inline constexpr double kMaxGuidance = 1000;

/// One prompt to be drawn, one or several times. Fields left empty take the model's defaults when the request is
/// resolved.
struct GenerationRequest {
  std::string prompt{};
  std::string negative_prompt{};
  std::optional<int64_t> height{};               ///< pixels
  std::optional<int64_t> width{};                ///< pixels
  std::optional<int64_t> num_inference_steps{};  ///< transformer calls; as many as `sigmas` where both are given
  std::optional<double> guidance_scale{};        ///< 0 switches classifier-free guidance off
  double cfg_normalization = 0;  ///< cap of |prediction| as a multiple of |positive prediction|; 0: none
  double cfg_truncation = 1;     ///< guidance is off once t = 1 - sigma exceeds this, in (0, 1]
  uint64_t seed = 42;            ///< picture i uses seed + i
  int64_t num_outputs = 1;
  RngKind rng = RngKind::torch_cpu;
  std::vector<double> sigmas{};     ///< descending noise levels in (0, 1] before shifting; empty: the schedule's own
  std::filesystem::path latents{};  ///< safetensors file with `latents` float32 [1, channels, h, w] in place of noise
};

/// What a model draws when the request leaves it open, and what it can draw at all.
struct ModelLimits {
  int64_t size_multiple = 16;  ///< pixels; other sizes are drawn at the next multiple and cropped
  int64_t max_side = 8192;     ///< pixels, from the rotary tables' lengths
  int64_t default_height = 1024;
  int64_t default_width = 1024;
  int64_t default_steps = 8;
  double default_guidance_scale = 0;
};

/// A request with every default filled in and every field checked.
struct ResolvedRequest {
  GenerationRequest request{};  ///< all optionals set
  int64_t drawn_height = 0;     ///< pixels, multiples of ModelLimits::size_multiple
  int64_t drawn_width = 0;
};

/// \throws Error invalid_input naming the first field that is out of range, its value and what would be right.
ResolvedRequest resolve(const GenerationRequest& request, const ModelLimits& limits);

}  // namespace nostos
