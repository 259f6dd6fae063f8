// Reads the reference data.
#include "models/golden.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace nostos::test {

GoldenModel embedded_model() {
  const std::filesystem::path root(NOSTOS_SOURCE_DIR);
  return {"mini", root / "models/mini", root / "tests/data/golden/golden.json"};
}

std::vector<GoldenModel> golden_models() {
  const std::filesystem::path tiny = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/tiny";
  std::vector<GoldenModel> models;
  for (const char* name : {"diffusers_test", "varied"})
    models.push_back({name, tiny / name, tiny / name / "expected/expected.json"});
  models.push_back(embedded_model());
  return models;
}

std::vector<GoldenCase> read_cases(const GoldenModel& model) {
  std::ifstream file(model.cases);
  require(file.good(), ErrorKind::internal, "no golden cases at {}", model.cases.string());
  std::vector<GoldenCase> cases;
  const nlohmann::json whole = nlohmann::json::parse(file);
  for (const auto& json : whole.at("cases")) {
    GoldenCase c;
    c.name = json.at("name");
    c.prompt = json.at("prompt");
    c.negative_prompt = json.value("negative_prompt", "");
    c.height = json.at("height");
    c.width = json.at("width");
    c.steps = json.at("steps");
    c.guidance_scale = json.at("guidance_scale");
    c.cfg_normalization = json.value("cfg_normalization", 0.0);
    c.cfg_truncation = json.value("cfg_truncation", 1.0);
    c.seed = json.at("seed");
    c.sigmas = json.value("sigmas", std::vector<double>{});
    c.bf16_psnr_db = json.value("bf16_psnr_db", 0.0);
    c.tensors = model.cases.parent_path() / (c.name + ".safetensors");
    cases.push_back(std::move(c));
  }
  return cases;
}

double relative_error(ConstView a, ConstView b) {
  check(a.elements() == b.elements(), "compared tensors have as many elements");
  const float* x = a.data<float>();
  const float* y = b.data<float>();
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < a.elements(); ++i) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    difference += d * d;
    norm += static_cast<double>(y[i]) * static_cast<double>(y[i]);
  }
  return std::sqrt(difference / std::max(norm, 1e-300));
}

double psnr_db(ConstView channels_last, ConstView channels_first) {
  const Tensor first = to_channels_first(channels_last);
  const float* x = first.data<float>();
  const float* y = channels_first.data<float>();
  double squares = 0;
  for (int64_t i = 0; i < channels_first.elements(); ++i) {
    const double d = std::clamp(x[i] / 2 + 0.5f, 0.f, 1.f) - std::clamp(y[i] / 2 + 0.5f, 0.f, 1.f);
    squares += std::isnan(d) ? 1.0 : d * d;
  }
  return -10 * std::log10(squares / static_cast<double>(channels_first.elements()) + 1e-30);
}

Tensor to_channels_first(ConstView image) {
  const int64_t pixels = image.shape()[0] * image.shape()[1], channels = image.shape()[2];
  Tensor made({}, DType::f32, {channels, image.shape()[0], image.shape()[1]});
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) made.data<float>()[c * pixels + p] = image.data<float>()[p * channels + c];
  }
  return made;
}

Tensor to_channels_last(ConstView image) {
  const int64_t channels = image.shape()[0], pixels = image.shape()[1] * image.shape()[2];
  Tensor made({}, DType::f32, {image.shape()[1], image.shape()[2], channels});
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) made.data<float>()[p * channels + c] = image.data<float>()[c * pixels + p];
  }
  return made;
}

}  // namespace nostos::test
