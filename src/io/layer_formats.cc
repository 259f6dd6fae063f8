// Implements reading how a file's weights are quantised.
#include "io/layer_formats.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "base/error.h"
#include "io/json_config.h"
#include "tensor/bfloat16.h"
#include "tensor/half.h"

namespace nostos {
namespace {

constexpr std::string_view kPrefix = "model.diffusion_model.";
constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kMarker = ".comfy_quant";
constexpr std::string_view kOldMarker = "scaled_fp8";
constexpr std::string_view kOldScale = ".scale_weight";
constexpr std::string_view kLayersText = "_quantization_metadata";
constexpr std::string_view kGgufText = "comfy.gguf.quant.";
constexpr std::string_view kFormatsRead = "float8_e4m3fn, float8_e5m2 and int8_tensorwise";
constexpr size_t kMostMarkerBytes = size_t{1} << 16;  // ComfyUI's have about 70
constexpr int64_t kUsualGroup = 256;

/// What stands beside a layer's weight in ComfyUI's formats, those that nostos does not read among them.
constexpr std::array<std::string_view, 11> kCompanions{
    kMarker,         ".weight_scale",     ".weight_scale_2",  ".input_scale",
    kOldScale,       ".scale_input",      ".pre_quant_scale", ".weight_zeros",
    ".weight_s_rel", ".weight_s_channel", ".weight_codebook"};

/// A format of ComfyUI that nostos reads.
struct Format {
  std::string_view name;
  StoredType type;
  bool may_be_bytes;  ///< whether files also have it as U8
};
constexpr std::array<Format, 3> kFormats{{{"float8_e4m3fn", StoredType::f8_e4m3, true},
                                          {"float8_e5m2", StoredType::f8_e5m2, true},
                                          {"int8_tensorwise", StoredType::i8, false}}};

bool is_8_bit_float(StoredType type) { return type == StoredType::f8_e4m3 || type == StoredType::f8_e5m2; }

/// \return `name` without `suffix`, nothing if it ends otherwise.
std::optional<std::string_view> stem(std::string_view name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return std::nullopt;
  return name.substr(0, name.size() - suffix.size());
}

std::string joined(std::string_view a, std::string_view b) { return std::string(a).append(b); }

/// \return the numbers of a tensor of scales, whose dtype is F32, BF16 or F16.
std::vector<float> read_numbers(std::span<const std::byte> bytes, StoredType type) {
  const size_t size = block_bytes(type);
  std::vector<float> numbers(bytes.size() / size);
  for (size_t i = 0; i < numbers.size(); ++i) {
    uint16_t half = 0;
    if (type == StoredType::f32)
      std::memcpy(&numbers[i], bytes.data() + i * size, size);
    else
      std::memcpy(&half, bytes.data() + i * size, size);
    if (type == StoredType::bf16) numbers[i] = to_float(bfloat16{half});
    if (type == StoredType::f16) numbers[i] = half_to_float(half);
  }
  return numbers;
}

/// \return the type of a tensor of scales. \throws Error model if nostos takes no scales of it
StoredType scales_type(const TensorFile& file, std::string_view name) {
  const TensorInfo& info = file.tensors().find(name)->second;
  const std::optional<StoredType> type = parse_stored_type(info.dtype_name);
  if (!type || !plain_dtype(*type)) {
    fail(ErrorKind::model, "{}: the scales '{}' are {}, must be F32, BF16 or F16", file.path().string(), name,
         to_string(info));
  }
  return *type;
}

}  // namespace

LayerFormats::LayerFormats(const TensorFile& file) : file_(&file) {
  read_markers();
  read_layer_texts();
  read_gguf_texts();
  find_belonging();
}

JsonConfig LayerFormats::parsed(std::string_view text, const std::string& place) const {
  return JsonConfig::parse(text, file_->path().string() + ": " + place);
}

LayerFormats::Statement LayerFormats::read_statement(const JsonConfig& json, std::string place, bool is_gguf) {
  Statement statement{json.string("format"), 0, std::move(place)};
  if (statement.format != "int8_tensorwise") return statement;
  const std::optional<JsonConfig> parameters = json.object("params");
  // ComfyUI looks at the object itself first.
  const auto owner = [&](std::string_view field) -> const JsonConfig& {
    return parameters && !json.has(field) ? *parameters : json;
  };
  const bool is_rotated = owner("convrot").boolean_or("convrot", false);
  const bool codes_are_rotated = json.boolean_or("weight_rotated", is_rotated && !is_gguf);
  if (codes_are_rotated && !is_rotated) json.refuse("weight_rotated", "is true, but 'convrot' is not");
  if (is_rotated && !codes_are_rotated && !is_gguf) json.refuse("weight_rotated", "is false, but 'convrot' is true");
  if (!codes_are_rotated) return statement;
  const JsonConfig& group = owner("convrot_groupsize");
  statement.rotation = group.integer_or("convrot_groupsize", kUsualGroup, 1, int64_t{1} << 30);
  if (!is_rotation(statement.rotation))
    group.refuse("convrot_groupsize",
                 fmt::format("is {}, must be a power of 4 from 4 to {}", statement.rotation, kMostRotation));
  return statement;
}

void LayerFormats::add_statement(std::string weight, Statement statement) {
  const auto [known, is_new] = statements_.emplace(std::move(weight), statement);
  const Statement& other = known->second;
  require(is_new || (other.format == statement.format && other.rotation == statement.rotation), ErrorKind::model,
          "{}: {} calls '{}' {} with rotation {}, but {} calls it {} with rotation {}", file_->path().string(),
          other.place, known->first, other.format, other.rotation, statement.place, statement.format,
          statement.rotation);
}

void LayerFormats::read_markers() {
  const std::string file = file_->path().string();
  for (const auto& [name, info] : file_->tensors()) {
    if (const auto layer = stem(name, kMarker)) {
      const std::string place = fmt::format("tensor '{}'", name);
      require(file_->tensors().contains(joined(*layer, kWeight)), ErrorKind::model,
              "{}: {} speaks of '{}{}', which the file has not", file, place, *layer, kWeight);
      require(info.dtype_name == "U8" && info.extents.size() == 1 && info.extents[0] <= int64_t{kMostMarkerBytes},
              ErrorKind::model, "{}: {} is {}, must be JSON in at most {} bytes, U8 of one axis", file, place,
              to_string(info), kMostMarkerBytes);
      const std::span<const std::byte> bytes = file_->bytes(name);
      const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      add_statement(joined(*layer, kWeight), read_statement(parsed(text, place), place, false));
    } else if (const auto prefix = stem(name, kOldMarker); prefix && (prefix->empty() || prefix->ends_with('.'))) {
      // Before the marker had a type of its own, all numbers were e4m3.
      const std::optional<StoredType> type =
          info.dtype_name == "F32" ? StoredType::f8_e4m3 : parse_stored_type(info.dtype_name);
      require(type && is_8_bit_float(*type), ErrorKind::model,
              "{}: the marker '{}' is {}, must be of the weights' type, F8_E4M3 or F8_E5M2, or F32", file, name,
              to_string(info));
      marked_types_.emplace(*prefix, *type);
      belonging_.insert(name);
    }
  }
}

void LayerFormats::read_layer_texts() {
  const auto text = file_->metadata().find(std::string(kLayersText));
  if (text == file_->metadata().end()) return;
  const std::string file = file_->path().string();
  const std::string place = fmt::format("the text '{}'", kLayersText);
  const std::optional<JsonConfig> layers = parsed(text->second, place).object("layers");
  require(layers.has_value(), ErrorKind::model, "{}: {} has no field 'layers', must say how layers are stored", file,
          place);
  for (const std::string& layer : layers->fields()) {
    std::string weight;
    const std::string_view bare = layer.starts_with(kPrefix) ? std::string_view(layer).substr(kPrefix.size()) : layer;
    for (const std::string& name : {layer, joined(kPrefix, layer), std::string(bare)}) {
      if (weight.empty() && file_->tensors().contains(joined(name, kWeight))) weight = joined(name, kWeight);
    }
    require(!weight.empty(), ErrorKind::model, "{}: {} speaks of the layer '{}', but the file has no tensor '{}{}'",
            file, place, layer, layer, kWeight);
    const std::optional<JsonConfig> statement = layers->object(layer);
    require(statement.has_value(), ErrorKind::model, "{}: {} says nothing of the layer '{}', must say its format", file,
            place, layer);
    add_statement(weight, read_statement(*statement, place, false));
  }
}

void LayerFormats::read_gguf_texts() {
  for (const auto& [key, text] : file_->metadata()) {
    if (!key.starts_with(kGgufText)) continue;
    const std::string weight = key.substr(kGgufText.size());
    const std::string place = fmt::format("the key '{}'", key);
    require(file_->tensors().contains(weight), ErrorKind::model,
            "{}: {} speaks of the tensor '{}', which the file has not", file_->path().string(), place, weight);
    add_statement(weight, read_statement(parsed(text, place), place, true));
    if (file_->tensors().contains(weight + "_scale")) belonging_.insert(weight + "_scale");
  }
}

void LayerFormats::find_belonging() {
  for (const auto& [name, info] : file_->tensors()) {
    for (const std::string_view companion : kCompanions) {
      const auto layer = stem(name, companion);
      if (layer && file_->tensors().contains(joined(*layer, kWeight))) belonging_.insert(name);
    }
  }
}

StoredWeight LayerFormats::of(std::string_view name) const {
  const auto found = file_->tensors().find(name);
  require(found != file_->tensors().end(), ErrorKind::model, "{}: has no tensor '{}'", file_->path().string(), name);
  const auto statement = statements_.find(name);
  return statement == statements_.end() ? unstated(name, found->second)
                                        : stated(name, found->second, statement->second);
}

StoredWeight LayerFormats::stated(std::string_view name, const TensorInfo& info, const Statement& statement) const {
  const std::string file = file_->path().string();
  const auto format = std::ranges::find(kFormats, statement.format, &Format::name);
  require(format != kFormats.end(), ErrorKind::model,
          "{}: tensor '{}' is stored as {:.40}, says {}; of ComfyUI's formats nostos reads {}", file, name,
          statement.format, statement.place, kFormatsRead);
  require(info.dtype_name == nostos::name(format->type) || (format->may_be_bytes && info.dtype_name == "U8"),
          ErrorKind::model, "{}: tensor '{}' is {}, but {} says that it is stored as {}, which is {}", file, name,
          to_string(info), statement.place, statement.format, nostos::name(format->type));
  const std::string scales = scales_name(name);
  require(!scales.empty(), ErrorKind::model,
          "{}: tensor '{}' is stored as {}, says {}, but its scales are missing: there is no tensor '{}_scale'", file,
          name, statement.format, statement.place, name);
  if (statement.rotation != 0) {
    require(info.extents.size() == 2 && info.extents[1] % statement.rotation == 0, ErrorKind::model,
            "{}: tensor '{}' is {}, but {} says that it is rotated in blocks of {} inputs: it must be a matrix whose "
            "columns are a multiple of that",
            file, name, to_string(info), statement.place, statement.rotation);
  }
  return {{format->type, scales_kind(name, info, scales), statement.rotation}, scales};
}

StoredWeight LayerFormats::unstated(std::string_view name, const TensorInfo& info) const {
  const std::string file = file_->path().string();
  const std::string scales = scales_name(name);
  const StoredType* const marker = marked_type(name);
  const StoredType* const marked = scales.empty() ? nullptr : marker;
  std::optional<StoredType> type = parse_stored_type(info.dtype_name);
  if (!type && marked != nullptr && info.dtype_name == "U8") type = *marked;
  if (!type) {
    fail(ErrorKind::model,
         "{}: tensor '{}' is {}; nostos reads weights that are F32, F16, BF16, F8_E4M3, F8_E5M2, Q4_0, Q4_1, Q5_0, "
         "Q5_1, "
         "Q8_0, Q2_K to Q6_K, IQ4_NL or IQ4_XS, and ComfyUI's formats {}",
         file, name, to_string(info), kFormatsRead);
  }
  require(*type != StoredType::i8, ErrorKind::model,
          "{}: tensor '{}' is {}, but neither a tensor '{}' nor the file's texts say what its numbers mean", file, name,
          to_string(info), joined(stem(name, kWeight).value_or(name), kMarker));
  require(marker == nullptr || !scales.empty() || !is_8_bit_float(*type) || info.extents.size() != 2, ErrorKind::model,
          "{}: tensor '{}' is {}, and the marker '{}' says that such weights have scales, but its scales are missing: "
          "there is no tensor '{}{}'",
          file, name, to_string(info), kOldMarker, stem(name, kWeight).value_or(name), kOldScale);
  if (scales.empty()) return {{*type, WeightScales::none, 0}, ""};
  if (is_8_bit_float(*type)) {
    if (marked != nullptr && *marked != *type) {
      fail(ErrorKind::model, "{}: tensor '{}' is {}, but the marker '{}' says {}", file, name, to_string(info),
           kOldMarker, nostos::name(*marked));
    }
    return {{*type, scales_kind(name, info, scales), 0}, scales};
  }
  // Converters of old put a scale of 1 beside weights that they left as they were.
  const std::vector<float> numbers = read_numbers(file_->bytes(scales), scales_type(*file_, scales));
  require(std::ranges::all_of(numbers, [](float number) { return number == 1.0f; }), ErrorKind::model,
          "{}: tensor '{}' is {}, which has no scales, but '{}' holds other numbers than 1", file, name,
          to_string(info), scales);
  return {{*type, WeightScales::none, 0}, ""};
}

std::string LayerFormats::scales_name(std::string_view name) const {
  const std::string scale = joined(name, "_scale");
  const auto layer = stem(name, kWeight);
  const std::string old_scale = layer ? joined(*layer, kOldScale) : "";
  // Beside what is no weight, a name with _scale behind it may be any parameter's.
  const bool has_scale = (layer || statements_.contains(name)) && file_->tensors().contains(scale);
  const bool has_old_scale = layer && file_->tensors().contains(old_scale);
  require(!has_scale || !has_old_scale, ErrorKind::model, "{}: tensor '{}' has scales twice, '{}' and '{}'",
          file_->path().string(), name, scale, old_scale);
  return has_scale ? scale : has_old_scale ? old_scale : "";
}

WeightScales LayerFormats::scales_kind(std::string_view name, const TensorInfo& info, const std::string& scales) const {
  const std::string file = file_->path().string();
  const TensorInfo& scale = file_->tensors().find(scales)->second;
  require(
      scale.extents.size() < 3, ErrorKind::model,
      "{}: the scales '{}' of '{}' are {}, scales for blocks, as musubi-tuner writes them; nostos reads one scale, or "
      "one for each row",
      file, scales, name, to_string(scale));
  scales_type(*file_, scales);
  if (scale.elements() == 1) return WeightScales::one;
  const int64_t rows = info.extents.size() < 2 ? 1 : info.extents[0];
  const bool is_column = scale.extents.size() == 1 || scale.extents[1] == 1;
  require(is_column && scale.extents[0] == rows, ErrorKind::model,
          "{}: the scales '{}' of '{}' are {}, must be one number, or one for each row of {}", file, scales, name,
          to_string(scale), to_string(info));
  return WeightScales::each_row;
}

const StoredType* LayerFormats::marked_type(std::string_view name) const {
  const StoredType* type = nullptr;
  size_t longest = 0;
  for (const auto& [prefix, marked] : marked_types_) {
    if (!name.starts_with(prefix) || (type != nullptr && prefix.size() < longest)) continue;
    type = &marked;
    longest = prefix.size();
  }
  return type;
}

std::vector<float> LayerFormats::scales(const StoredWeight& weight) const {
  if (weight.scales.empty()) return {};
  std::vector<float> numbers = read_numbers(file_->bytes(weight.scales), scales_type(*file_, weight.scales));
  require(std::ranges::all_of(numbers, [](float number) { return std::isfinite(number); }), ErrorKind::model,
          "{}: the scales '{}' must be finite numbers", file_->path().string(), weight.scales);
  return numbers;
}

}  // namespace nostos
