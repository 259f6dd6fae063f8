// Owns how tests draw with adapters: models, files of changes for them, and requests.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/adapters.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"
#include "pipeline/precisions.h"

namespace nostos {

using Path = std::filesystem::path;

inline const Path kData = repository() / "tests/data";

struct Model {
  const char* name;
  Path folder;
};
inline const Model kZImage{"zimage", kData / "tiny/varied"}, kFlux2{"flux2", kData / "klein_tiny/base"};

inline Path adapter_file(const Model& model, const std::string& name) {
  return kData / "adapters" / model.name / (name + ".safetensors");
}

inline AdapterUse use_of(const Model& model, const std::string& name, double scale = 1) {
  const Path file = adapter_file(model, name);
  return {.name = name, .file = file.string(), .sha256 = file_sha256(file), .scale = scale};
}

inline EngineOptions options(const Path& folder, Precision precision = Precision::f32,
                             const Parallelism& parallelism = {}) {
  EngineOptions made;
  made.model = folder;
  made.device = drawing_device();
  set_precision(made, precision);
  made.parallelism = parallelism;
  made.threads = 2;
  return made;
}

inline GenerationRequest request(std::vector<AdapterUse> adapters, uint64_t seed = 42) {
  GenerationRequest made;
  made.prompt = "a cat";
  made.negative_prompt = "rain";
  made.height = 48;
  made.width = 32;
  made.num_inference_steps = 2;
  made.guidance_scale = 2;
  made.max_sequence_length = 64;
  made.seed = seed;
  made.adapters = std::move(adapters);
  return made;
}

inline std::vector<float> latents_of(const Generation& generation) {
  const Tensor& latents = generation.pictures.at(0).latents;
  return {latents.data<float>(), latents.data<float>() + latents.shape().elements()};
}

inline std::vector<float> drawn(Engine& engine, const std::vector<AdapterUse>& adapters) {
  return latents_of(engine.generate(request(adapters)));
}

}  // namespace nostos
