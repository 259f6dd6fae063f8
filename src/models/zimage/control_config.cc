// Reads and checks the config of a control network, and makes one from tensors. Source of the variants: VideoX-Fun's
// config/z_image/*.yaml; of the config's fields: diffusers controlnet_z_image.py.
#include "models/zimage/control_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <string_view>

#include "base/error.h"
#include "models/zimage/file_layouts.h"

namespace nostos::zimage {
namespace {

constexpr int64_t kPatch = 2;
constexpr std::string_view kRefinerField = "add_control_noise_refiner";
constexpr std::string_view kLayers = "control_layers", kBlocks = "control_noise_refiner";

ControlRefiner read_refiner(const JsonConfig& json) {
  if (!json.has(kRefinerField)) return ControlRefiner::plain_blocks;
  const std::string name = json.string(kRefinerField);
  if (name == kLayers) return ControlRefiner::control_layers;
  if (name != kBlocks) json.refuse(kRefinerField, fmt::format("must be null, \"{}\" or \"{}\"", kLayers, kBlocks));
  return ControlRefiner::control_blocks;
}

bool rises(const std::vector<int64_t>& values) {
  return std::ranges::adjacent_find(values, std::greater_equal<>()) == values.end();
}

void check_places(const JsonConfig& json, const ControlConfig& config) {
  constexpr std::string_view kField = "control_layers_places";
  const std::vector<int64_t>& places = config.places;
  if (places.empty() || !rises(places))
    json.refuse(kField, "must be layers of the transformer, each larger than the one before");
  if (!config.adds_to_refiner()) return;
  const int64_t refiners = config.dims.refiner_layers;
  if (refiners == 0) json.refuse("n_refiner_layers", "is 0: there is no refiner to add to");
  if (config.refiner == ControlRefiner::control_layers && std::ssize(places) < refiners)
    json.refuse(kField,
                fmt::format("has {} entries, fewer than the {} refiners that get one added", places.size(), refiners));
  const std::vector<int64_t> wanted = json.integers_or("control_refiner_layers_places", {}, 0, 1000);
  if (std::ssize(wanted) != refiners || !rises(wanted) || wanted.back() != refiners - 1)
    json.refuse("control_refiner_layers_places", "must name every refiner: nostos adds to all of them or to none");
}

}  // namespace

ControlConfig load_control_config(const JsonConfig& json) {
  constexpr std::array<std::string_view, 1> kClasses{"ZImageControlNetModel"};
  constexpr int64_t kMax = int64_t{1} << 20;
  json.check_class(kClasses);
  json.require_unquantised();
  ControlConfig config;
  Config& dims = config.dims;
  const std::vector<int64_t> patches = json.integers_or("all_patch_size", {kPatch}, 1, 64);
  if (patches.size() != 1)
    json.refuse("all_patch_size", fmt::format("lists {} patch sizes, nostos draws with one", patches.size()));
  if (json.integers_or("all_f_patch_size", {1}, 1, 64) != std::vector<int64_t>{1})
    json.refuse("all_f_patch_size", "is not [1]: nostos draws single frames");
  dims.patch = patches[0];
  dims.in_channels = json.integer_or("control_in_dim", 16, 1, 4096);
  dims.hidden = json.integer_or("dim", 3840, 3, kMax);
  dims.heads = json.integer_or("n_heads", 30, 1, 4096);
  if (dims.hidden % dims.heads != 0)
    json.refuse("n_heads", fmt::format("is {}, which does not divide dim {}", dims.heads, dims.hidden));
  dims.norm_eps = static_cast<float>(json.number_or("norm_eps", 1e-5, 0, 1));
  dims.qk_norm = json.boolean_or("qk_norm", true);
  dims.refiner_layers = json.integer_or("n_refiner_layers", 2, 0, 1000);
  config.places = json.integers("control_layers_places", 0, 1000);
  dims.layers = std::ssize(config.places);
  config.refiner = read_refiner(json);
  check_places(json, config);
  return config;
}

JsonConfig guess_control_config(const TensorShapes& shapes,
                                const std::function<bool(const std::string& name)>& is_zero) {
  constexpr int64_t kTransformerLayers = 30, kTransformerRefiners = 2;
  const std::string embedder = fmt::format("control_all_x_embedder.{}-1.weight", kPatch);
  const std::string refiner_hint = fmt::format("{}.0.after_proj.weight", kBlocks);
  const int64_t hidden = shapes.extent(embedder, 0);
  const int64_t layers = shapes.count("control_layers.", ".attention_norm1.weight");
  const int64_t refiners = shapes.count("control_noise_refiner.", ".attention_norm1.weight");
  if (layers == 0 || kTransformerLayers % layers != 0)
    shapes.refuse(fmt::format("it has {} control layers, which cannot be spread evenly over the {} of Z-Image", layers,
                              kTransformerLayers));
  std::vector<int64_t> places, refiner_places;
  for (int64_t i = 0; i < layers; ++i) places.push_back(i * (kTransformerLayers / layers));
  const bool has_hints = shapes.has(refiner_hint);
  std::string refiner = "null";
  if (refiners == 0 || (has_hints && is_zero(refiner_hint)))  // files that diffusers writes lack what was not trained
    refiner = fmt::format("\"{}\"", kLayers);
  else if (has_hints)
    refiner = fmt::format("\"{}\"", kBlocks);
  const int64_t refiner_layers = refiners == 0 ? kTransformerRefiners : refiners;
  if (refiner != "null")
    for (int64_t i = 0; i < refiner_layers; ++i) refiner_places.push_back(i);
  return JsonConfig::parse(
      fmt::format(R"({{"_class_name": "ZImageControlNetModel", "all_patch_size": [{}], "all_f_patch_size": [1],
                       "control_in_dim": {}, "control_layers_places": [{}], "control_refiner_layers_places": [{}],
                       "add_control_noise_refiner": {}, "dim": {}, "n_refiner_layers": {}, "n_heads": {},
                       "norm_eps": 1e-5, "qk_norm": true}})",
                  kPatch, shapes.quotient("channels", shapes.extent(embedder, 1), kPatch * kPatch),
                  fmt::join(places, ", "), fmt::join(refiner_places, ", "), refiner, hidden, refiner_layers,
                  shapes.quotient("heads", hidden, shapes.extent("control_layers.0.attention.norm_q.weight", 0))),
      shapes.config_name());
}

JsonConfig guess_control_config(const TensorShapes& shapes, const WeightStore& store) {
  return guess_control_config(shapes, [&](const std::string& name) {
    // Another store, for what is looked at here has not been used. Zeros are bytes of zero in every format.
    const std::filesystem::path& path = store.path();
    WeightStore again =
        std::filesystem::is_directory(path) ? WeightStore::open(path, store.variant()) : WeightStore::open_file(path);
    for (const std::string_view prefix : file_prefixes()) {
      const auto bytes = again.find_bytes(std::string(prefix) + name);
      if (bytes) return std::ranges::all_of(*bytes, [](std::byte byte) { return byte == std::byte{}; });
    }
    return false;
  });
}

void check_control(const ControlConfig& control, const Config& transformer, const std::string& file) {
  const auto equal = [&](std::string_view what, int64_t own, int64_t wanted) {
    require(own == wanted, ErrorKind::model, "{} controls a transformer with {} {}, not {}", file, what, own, wanted);
  };
  const Config& own = control.dims;
  equal("the width", own.hidden, transformer.hidden);
  equal("the number of heads", own.heads, transformer.heads);
  equal("the patch size", own.patch, transformer.patch);
  if (control.adds_to_refiner()) equal("the number of refiners", own.refiner_layers, transformer.refiner_layers);
  require(control.places.back() < transformer.layers, ErrorKind::model,
          "{} adds behind layer {} of a transformer, and this one has {}", file, control.places.back(),
          transformer.layers);
  const int64_t latents = transformer.in_channels;
  require(own.in_channels == latents || own.in_channels == 2 * latents + 1, ErrorKind::model,
          "{} takes control images of {} channels, neither {} nor {}", file, own.in_channels, latents, 2 * latents + 1);
}

}  // namespace nostos::zimage
