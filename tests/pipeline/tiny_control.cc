// Writes random control networks.
#include "pipeline/tiny_control.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <random>
#include <vector>

#include "io/json_config.h"
#include "io/safetensors.h"
#include "models/synthetic_source.h"
#include "models/weight_builder.h"
#include "models/zimage/control_weights.h"

namespace nostos::tiny {
namespace {

std::string config_text(ControlKind kind, const zimage::Config& transformer) {
  const bool is_first = kind == ControlKind::union_1;
  std::vector<int64_t> places, refiners;
  for (int64_t i = 0; i < (kind == ControlKind::lite ? 1 : transformer.layers); ++i) places.push_back(i);
  for (int64_t i = 0; i < transformer.refiner_layers && !is_first; ++i) refiners.push_back(i);
  const char* const refiner = is_first                         ? "null"
                              : kind == ControlKind::union_2_0 ? "\"control_layers\""
                                                               : "\"control_noise_refiner\"";
  return fmt::format(
      R"({{"_class_name": "ZImageControlNetModel", "control_in_dim": {}, "control_layers_places": [{}],
           "control_refiner_layers_places": [{}], "add_control_noise_refiner": {}, "dim": {}, "n_refiner_layers": {},
           "n_heads": {}, "norm_eps": {}, "qk_norm": true}})",
      is_first ? transformer.in_channels : 2 * transformer.in_channels + 1, fmt::join(places, ", "),
      fmt::join(refiners, ", "), refiner, transformer.hidden, transformer.refiner_layers, transformer.heads,
      transformer.norm_eps);
}

/// \return numbers that let a control image be seen in what is drawn.
Tensor random_values(const std::string& name, const Shape& shape, std::mt19937& generator) {
  Tensor made(Device{}, DType::f32, shape);
  const bool is_norm = name.find("norm") != std::string::npos && shape.rank() == 1;
  for (int64_t i = 0; i < shape.elements(); ++i) {
    const float uniform = static_cast<float>(generator() >> 8) / static_cast<float>(1 << 24) - 0.5f;
    made.data<float>()[i] = is_norm ? 1 + 0.2f * uniform : 0.6f * uniform;
  }
  return made;
}

}  // namespace

ControlFile::ControlFile(ControlKind kind, const std::filesystem::path& model) {
  const zimage::Config transformer = zimage::load_config(JsonConfig::load(model / "transformer" / "config.json"));
  const std::string config = config_text(kind, transformer);
  Context host({}, 1);
  const auto listing = std::make_shared<ListingSource>();
  WeightBuilder builder(host, listing, DType::f32);
  zimage::build_control_weights(zimage::load_control_config(JsonConfig::parse(config, "config")), builder);
  std::mt19937 generator(7);
  std::map<std::string, Tensor> tensors;
  std::vector<NamedTensor> named;
  for (const auto& [name, shape] : listing->shapes()) {
    const auto place = tensors.emplace(name, random_values(name, shape, generator)).first;
    named.push_back({name, place->second.view()});
  }
  static int count = 0;
  path_ = std::filesystem::path(testing::TempDir()) / fmt::format("control.{}.{}.safetensors", getpid(), count++);
  write_safetensors(path_, named, {{"config.controlnet", config}});
}

ControlFile::~ControlFile() {
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

}  // namespace nostos::tiny
