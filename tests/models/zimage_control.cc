// Runs a step of a tiny Z-Image transformer with a control network, as a family's denoiser would.
#include "models/zimage_control.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <memory>
#include <optional>

#include "models/weight_builder.h"
#include "ops/elementwise.h"
#include "ops/patches.h"

namespace nostos::test {
namespace {

namespace z = zimage;

const std::filesystem::path kData = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data";
const std::filesystem::path kTransformer = kData / "tiny/varied/transformer";
constexpr int64_t kMostTokens = 64;  // of a caption

std::vector<TensorRows> find_repeated(const std::string& name) {
  if (!name.starts_with("layers.")) return {{name}};
  const size_t dot = name.find('.', 7);
  return {{"layers." + std::to_string(std::stoi(name.substr(7, dot - 7)) % 2) + name.substr(dot)}};
}
constexpr CheckpointLayout kRepeated{"two layers again and again", "layers.0.attention.to_q.weight", find_repeated, {}};

z::Transformer load_transformer(Context& ctx, int64_t layers, DType dtype) {
  z::Config config = z::load_config(JsonConfig::load(kTransformer / "config.json"));
  config.layers = layers;
  WeightBuilder builder(ctx,
                        std::make_shared<StoreSource>(WeightStores().open(kTransformer), CheckpointNames{&kRepeated},
                                                      StoreSource::Mode::load),
                        dtype);
  return {ctx, config, z::build_weights(config, builder), dtype, kMostTokens};
}

/// The config of a variant in diffusers' words, with the dimensions of the transformer.
z::ControlConfig control_config(const nlohmann::json& variant, const z::Config& transformer) {
  nlohmann::json json{{"_class_name", "ZImageControlNetModel"},
                      {"dim", transformer.hidden},
                      {"n_heads", transformer.heads},
                      {"n_refiner_layers", transformer.refiner_layers},
                      {"norm_eps", transformer.norm_eps},
                      {"control_in_dim", variant["control_in_dim"]},
                      {"control_layers_places", variant["control_layers_places"]}};
  if (variant.value("add_control_noise_refiner", false)) {
    const bool is_right = variant.value("add_control_noise_refiner_correctly", false);
    json["add_control_noise_refiner"] = is_right ? "control_noise_refiner" : "control_layers";
    json["control_refiner_layers_places"] = variant["control_refiner_layers_places"];
  }
  return z::load_control_config(JsonConfig::parse(json.dump(), "variant.json"));
}

/// Everything of a step of some passes: memory, inputs, hooks.
class Step {
 public:
  Step(Context& ctx, const ControlledModel& model, const nn::SequenceParallel& picture,
       std::span<const ControlledPass> passes)
      : ctx_(ctx), model_(model), picture_(picture), passes_(passes), dtype_(model.transformer.dtype()) {
    // What nobody fills shows: bytes of 0xFF are no numbers.
    std::fill_n(arena_.take(kBytes), kBytes, std::byte{0xFF});
    arena_.rewind(0);
  }

  std::vector<Tensor> predict(float time) {
    prepare(time);
    const int64_t rows = picture_.image().rows();
    const View refined = take(arena_, DType::f32, {std::ssize(passes_) * rows, config().hidden});
    const std::vector<z::Controlled> controlled = controlled_passes();
    std::vector<z::ImageInput> images;
    for (size_t i = 0; i < passes_.size(); ++i) images.push_back({tokens_[i], conditionings_[i].rope.rows(0, rows)});
    const size_t mark = arena_.used_bytes();
    {  // the network's scratch lies in that of the transformer, which is larger
      const auto own = z::take_image_scratch(arena_, config(), picture_, controlled.size(), dtype_);
      arena_.rewind(mark);
      const auto scratch = z::take_image_scratch(arena_, config(), picture_, passes_.size(), dtype_);
      z::RefinerControl between({model_.control, picture_, factors_, own, controlled});
      model_.transformer.refine_images(ctx_, picture_, {images, refined, controlled.empty() ? nullptr : &between},
                                       modulation_, scratch);
    }
    arena_.rewind(mark);
    forward(refined, controlled);
    return gather();
  }

 private:
  static constexpr size_t kBytes = size_t{8} << 20;

  const z::Config& config() const { return model_.transformer.config(); }

  /// \return this rank's tokens of f32 [channels, height, width].
  View cut(ConstView latents) {
    const int64_t width = latents.shape()[0] * config().patch * config().patch;
    const View whole = take(arena_, DType::f32, {picture_.grid().tokens(), width});
    const View local = take(arena_, DType::f32, {picture_.image_tokens(), width});
    ops::patchify(ctx_, latents, config().patch, whole);
    picture_.cut_tokens(ctx_, whole, local);
    return local;
  }

  Tensor refine(ConstView features) {
    const std::array lengths{features.shape()[0]};
    Tensor caption({}, DType::f32, {z::padded_tokens(lengths[0]), config().hidden});
    const size_t mark = arena_.used_bytes();
    const auto scratch = z::RefineScratch::take(arena_, config(), lengths, dtype_);
    model_.transformer.refine(ctx_, lengths, features, scratch, caption);
    arena_.rewind(mark);
    return caption;
  }

  /// Does what is done once a run. The step is the second of two.
  void prepare(float time) {
    modulation_ = z::Modulation::take(arena_, config(), 2, dtype_);
    factors_ = z::ControlModulation::take(arena_, model_.control.config(), 2, dtype_);
    model_.transformer.modulate(ctx_, std::array{0.5f, time}, modulation_);
    model_.control.modulate(ctx_, modulation_, factors_);
    std::vector<const z::ControlImage*> images;
    controls_.resize(passes_.size());
    for (size_t i = 0; i < passes_.size(); ++i) {
      const Tensor caption = refine(passes_[i].caption);
      conditionings_.push_back(z::Conditioning::take(arena_, config(), picture_, caption.shape()[0]));
      model_.transformer.fill_positions(ctx_, picture_, conditionings_[i]);
      model_.transformer.take_caption(ctx_, picture_, caption, conditionings_[i]);
      tokens_.push_back(cut(passes_[i].latents));
      velocities_.push_back(take(arena_, DType::f32, tokens_[i].shape()));
      if (!passes_[i].context) continue;
      controls_[i] = z::ControlImage::take(arena_, model_.control.config(), picture_, 2);
      model_.control.take_image(ctx_, model_.transformer, cut(passes_[i].context), std::array{9.f, passes_[i].scale},
                                controls_[i]);
      images.push_back(&controls_[i]);
    }
    z::Transformer::select_step(ctx_, modulation_, 1);
    z::ControlNetwork::select_step(ctx_, factors_, images, 1);
  }

  std::vector<z::Controlled> controlled_passes() {
    const auto count = std::ranges::count_if(passes_, [](const ControlledPass& pass) { return bool(pass.context); });
    const int64_t rows = picture_.image().rows();
    const View refined = take(arena_, DType::f32, {count * rows, config().hidden});
    std::vector<z::Controlled> controlled;
    for (size_t i = 0; i < passes_.size(); ++i)
      if (passes_[i].context)
        controlled.push_back({i, &controls_[i], refined.rows(std::ssize(controlled) * rows, rows)});
    return controlled;
  }

  void forward(View refined, std::span<const z::Controlled> controlled) {
    const int64_t rows = picture_.image().rows();
    std::vector<z::Pass> passes;
    std::vector<const z::Conditioning*> conditionings;
    for (size_t i = 0; i < passes_.size(); ++i) {
      conditionings.push_back(&conditionings_[i]);
      passes.push_back({refined.rows(static_cast<int64_t>(i) * rows, rows), &conditionings_[i], velocities_[i]});
    }
    std::vector<const nn::ShardedSequence*> sequences;
    for (const z::Controlled& each : controlled) sequences.push_back(&conditionings_[each.place].sequence);
    const View c = take(arena_, DType::f32, {nn::rows_of(sequences), config().hidden});
    const auto scratch = z::Scratch::take(arena_, config(), picture_, conditionings, dtype_);
    const auto own = z::BlockScratch::take(arena_, config(), sequences, dtype_);
    z::LayersControl between({model_.control, picture_, factors_, own, controlled}, c);
    model_.transformer.forward(ctx_, picture_, {passes, controlled.empty() ? nullptr : &between}, modulation_, scratch);
  }

  std::vector<Tensor> gather() {
    std::vector<Tensor> outs;
    for (size_t i = 0; i < passes_.size(); ++i) {
      Tensor whole({}, DType::f32, {picture_.grid().tokens(), config().patch_width()}),
          room({}, DType::f32, whole.shape());
      picture_.gather_tokens(ctx_, velocities_[i], room, whole);
      outs.emplace_back(Device{}, DType::f32, passes_[i].latents.shape());
      ops::unpatchify(ctx_, whole, config().patch, outs.back());
    }
    return outs;
  }

  Context& ctx_;
  const ControlledModel& model_;
  const nn::SequenceParallel& picture_;
  std::span<const ControlledPass> passes_;
  DType dtype_;
  Arena arena_{{}, kBytes};
  z::Modulation modulation_;
  z::ControlModulation factors_;
  std::vector<z::Conditioning> conditionings_;
  std::vector<z::ControlImage> controls_;
  std::vector<View> tokens_, velocities_;
};

}  // namespace

ControlGolden::ControlGolden() : tensors(kData / "zimage_control/expected.safetensors") {
  std::ifstream file(kData / "zimage_control/expected.json");
  json = nlohmann::json::parse(file);
}

std::vector<std::string> ControlGolden::variants() const {
  std::vector<std::string> names;
  for (const auto& [name, options] : json["variants"].items()) names.push_back(name);
  return names;
}

const nlohmann::json& ControlGolden::the_case(const std::string& name) const {
  return *std::ranges::find_if(json["cases"], [&](const nlohmann::json& c) { return c["name"] == name; });
}

std::filesystem::path write_control_file(const ControlGolden& golden, const std::string& variant) {
  const nlohmann::json& options = golden.json["variants"][variant];
  const int64_t layers = std::ssize(options["control_layers_places"]);
  const bool adds = options.value("add_control_noise_refiner", false),
             is_trained = options.value("add_control_noise_refiner_correctly", false);
  const SafetensorsFile all(kData / "zimage_control/control.safetensors");
  std::map<std::string, ConstView> kept;
  std::vector<Tensor> zeros;
  for (const auto& [name, info] : all.tensors()) {
    const bool is_layer = name.starts_with("control_layers."), is_projection = name.find("_proj.") != std::string::npos;
    if (is_layer && std::stoi(name.substr(15)) >= layers) continue;
    if (!is_layer && is_projection && !adds) continue;
    const std::string own = variant + "." + name;
    ConstView tensor = golden.tensors.tensors().contains(own) ? golden.tensors.tensor(own) : all.tensor(name);
    if (!is_layer && is_projection && !is_trained) {
      zeros.emplace_back(Device{}, tensor.dtype(), tensor.shape());
      std::fill_n(zeros.back().view().bytes(), tensor.size_in_bytes(), std::byte{});
      tensor = std::as_const(zeros.back()).view();
    }
    kept.emplace(name, tensor);
  }
  std::vector<NamedTensor> named;
  for (const auto& [name, tensor] : kept) named.push_back({name, tensor});
  const std::filesystem::path file =
      std::filesystem::path(testing::TempDir()) / (variant + "." + std::to_string(getpid()) + ".safetensors");
  write_safetensors(file, named);
  return file;
}

ControlledModel ControlledModel::load(Context& ctx, const ControlGolden& golden, const std::string& variant,
                                      DType dtype) {
  z::Transformer transformer = load_transformer(ctx, golden.json["layers"], dtype);
  const z::ControlConfig config = control_config(golden.json["variants"][variant], transformer.config());
  const std::filesystem::path file = write_control_file(golden, variant);
  z::check_control(config, transformer.config(), file.string());
  WeightBuilder builder(
      ctx, std::make_shared<StoreSource>(WeightStores().open(file), CheckpointNames{}, StoreSource::Mode::load), dtype);
  z::ControlWeights weights = z::build_control_weights(config, builder);
  std::filesystem::remove(file);
  return {std::move(transformer), {config, std::move(weights), dtype}};
}

std::vector<Tensor> predict(Context& ctx, const ControlledModel& model, const nn::SequenceParallel& picture, float time,
                            std::span<const ControlledPass> passes) {
  return Step(ctx, model, picture, passes).predict(time);
}

}  // namespace nostos::test
