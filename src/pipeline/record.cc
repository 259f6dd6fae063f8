// Implements the writing and reading of drawing records.
#include "pipeline/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/file.h"
#include "io/json_config.h"
#include "io/json_text.h"
#include "io/model_folder.h"

namespace nostos {
namespace {

constexpr std::array<std::pair<const char*, std::string PartPaths::*>, 5> kPartFields{
    {{"transformer", &PartPaths::transformer},
     {"text_encoder", &PartPaths::text_encoder},
     {"vae", &PartPaths::vae},
     {"tokenizer", &PartPaths::tokenizer},
     {"controlnet", &PartPaths::controlnet}}};

constexpr size_t kMaxPictureBytes = size_t{1} << 30;

/// \return a value of the line of settings, in quotes where WebUI tools want them.
std::string setting_value(const std::string& text) {
  return text.find_first_of(",:\n\"") == std::string::npos ? text : json_line(text);
}

nlohmann::ordered_json image_json(const ReferenceImage& image) {
  return {{"file", image.file}, {"sha256", image.sha256}, {"height", image.size.height}, {"width", image.size.width}};
}

nlohmann::ordered_json images_json(const std::vector<ReferenceImage>& images) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const ReferenceImage& image : images) json.push_back(image_json(image));
  return json;
}

nlohmann::ordered_json control_json(const Control& control) {
  nlohmann::ordered_json json = control.image ? image_json(*control.image) : nlohmann::ordered_json::object();
  json["scale"] = control.scale;
  json["start"] = control.start;
  json["end"] = control.end;
  json["preprocessor"] = name(control.preprocessor);
  return json;
}

nlohmann::ordered_json adapters_json(const std::vector<AdapterUse>& adapters) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const AdapterUse& adapter : adapters)
    json.push_back(
        {{"name", adapter.name}, {"file", adapter.file}, {"sha256", adapter.sha256}, {"scale", adapter.scale}});
  return json;
}

/// \return the field `sha256`. \param of the field that the object is an element of
std::string parse_sha256(const JsonConfig& json, const char* of) {
  std::string hash = json.string("sha256");
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  const bool is_hash = hash.empty() || hash.size() == 64;  // callers of the library may have none
  require(is_hash && std::ranges::all_of(hash, is_digit), ErrorKind::model,
          "{}: a sha256 of field '{}' is no 64 hexadecimal digits", json.name(), of);
  return hash;
}

AdapterUse parse_adapter(const JsonConfig& json) {
  return {.name = json.string("name"),
          .file = json.string("file"),
          .sha256 = parse_sha256(json, "loras"),
          .scale = json.number("scale", -kMaxAdapterScale, kMaxAdapterScale)};
}

/// \param of the field that the object is, or is an element of
ReferenceImage parse_image(const JsonConfig& json, const char* of) {
  constexpr int64_t kMaxSide = int64_t{1} << 24;
  return {.file = json.string("file"),
          .sha256 = parse_sha256(json, of),
          .size = {json.integer("height", 1, kMaxSide), json.integer("width", 1, kMaxSide)}};
}

Control parse_control(const JsonConfig& json) {
  const bool has_image = json.has("file");
  return {.image = has_image ? std::optional(parse_image(json, "control")) : std::nullopt,
          .scale = json.number("scale", 0, kMaxControlScale),
          .start = json.number("start", 0, 1),
          .end = json.number("end", 0, 1),
          .preprocessor = parse_preprocessor(json.string("preprocessor"))};
}

/// \return the adapters as WebUI tools write them into prompts.
std::string adapter_tags(const std::vector<AdapterUse>& adapters) {
  std::string tags;
  for (const AdapterUse& adapter : adapters) tags += fmt::format(" <lora:{}:{}>", adapter.name, adapter.scale);
  return tags;
}

}  // namespace

nlohmann::ordered_json request_json(const GenerationRequest& request) {
  const Latents* const latents = std::get_if<Latents>(&request.start);
  nlohmann::ordered_json json{
      {"prompt", request.prompt},
      {"negative_prompt", request.negative_prompt},
      {"height", request.height.value()},
      {"width", request.width.value()},
      {"num_inference_steps", request.num_inference_steps.value()},
      {"guidance_scale", request.guidance_scale.value()},
      {"cfg_normalization", request.cfg_normalization},
      {"cfg_truncation", request.cfg_truncation},
      {"seed", request.seed},
      {"num_outputs", request.num_outputs},
      {"rng", name(request.rng)},
      {"sigmas", request.sigmas},
      {"latents", latents == nullptr ? "" : latents->file},
      {"max_sequence_length",
       request.max_sequence_length ? nlohmann::ordered_json(*request.max_sequence_length) : nlohmann::ordered_json()}};
  if (!request.images.empty()) json["images"] = images_json(request.images);
  if (request.strength) json["strength"] = *request.strength;
  if (request.strength || request.control) json["image_fit"] = name(request.image_fit);
  if (request.mask) {
    json["mask"] = image_json(request.mask->image);
    json["mask"]["blur"] = request.mask->blur;
  }
  if (request.control) json["control"] = control_json(*request.control);
  if (!request.adapters.empty()) json["loras"] = adapters_json(request.adapters);
  return json;
}

std::string to_json(const DrawingRecord& record) {
  nlohmann::ordered_json json = request_json(record.request);
  json["model_path"] = record.model_path;
  for (const auto& [field, place] : kPartFields)
    if (!(record.parts.*place).empty()) json[field] = record.parts.*place;
  if (record.parts.is_base) json["base_model"] = true;
  json["model_name"] = record.model_name;
  json["precision"] = record.precision;
  if (record.text_precision != "auto") json["text_precision"] = record.text_precision;
  if (record.attention_precision != "auto") json["attention_precision"] = record.attention_precision;
  if (!record.variant.empty()) json["variant"] = record.variant;
  if (record.guidance != GuidanceForm::from_positive) json["guidance_form"] = name(record.guidance);
  json["version"] = NOSTOS_VERSION;
  return json_line(json);
}

DrawingRecord parse_drawing_record(std::string_view text, const std::string& name) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  constexpr double kLargest = std::numeric_limits<double>::max();
  const JsonConfig json = JsonConfig::parse(text, name);
  DrawingRecord record;
  GenerationRequest& request = record.request;
  request.prompt = json.string("prompt");
  request.negative_prompt = json.string("negative_prompt");
  request.height = json.integer("height", 1, kMax);
  request.width = json.integer("width", 1, kMax);
  request.num_inference_steps = json.integer("num_inference_steps", 1, kMax);
  request.guidance_scale = json.number("guidance_scale", 0, kLargest);
  request.cfg_normalization = json.number("cfg_normalization", 0, kLargest);
  request.cfg_truncation = json.number("cfg_truncation", 0, 1);
  request.seed = json.unsigned_integer("seed");
  request.num_outputs = json.integer("num_outputs", 1, kMax);
  request.rng = parse_rng(json.string("rng"));
  request.sigmas = json.numbers("sigmas", 0, 1);
  if (std::string file = json.string("latents"); !file.empty()) request.start = Latents{.file = std::move(file)};
  if (json.has("images"))
    for (const JsonConfig& image : json.objects("images")) request.images.push_back(parse_image(image, "images"));
  if (json.has("strength")) request.strength = json.number("strength", 0, 1);
  if (json.has("image_fit")) request.image_fit = parse_image_fit(json.string("image_fit"));
  if (const auto mask = json.object("mask"))
    request.mask = Mask{parse_image(*mask, "mask"), mask->number("blur", 0, kMaxMaskBlur)};
  if (const auto control = json.object("control")) request.control = parse_control(*control);
  if (json.has("loras"))
    for (const JsonConfig& adapter : json.objects("loras")) request.adapters.push_back(parse_adapter(adapter));
  // Records of earlier versions have neither of these.
  if (json.has("max_sequence_length")) request.max_sequence_length = json.integer("max_sequence_length", 1, kMax);
  record.model_name = json.string_or("model_name", "");
  record.model_path = json.string("model_path");
  for (const auto& [field, place] : kPartFields) record.parts.*place = json.string_or(field, "");
  record.parts.is_base = json.boolean_or("base_model", false);
  record.precision = json.string("precision");
  record.text_precision = json.string_or("text_precision", "auto");
  record.attention_precision = json.string_or("attention_precision", "auto");
  record.variant = json.string_or("variant", "");
  record.guidance = parse_guidance_form(json.string_or("guidance_form", nostos::name(GuidanceForm::from_positive)));
  return record;
}

std::string read_record_text(const std::filesystem::path& png) {
  const std::string bytes = read_file(png, kMaxPictureBytes);
  try {
    const std::vector<TextChunk> chunks = read_png_text({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    const auto found = std::ranges::find(chunks, kRecordKeyword, &TextChunk::keyword);
    require(found != chunks.end(), ErrorKind::invalid_input,
            "the picture holds no text chunk '{}', so it does not say how nostos drew it", kRecordKeyword);
    return found->text;
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", png.string(), error.what());
  }
}

ModelLabel model_label(const std::string& model_path) {
  if (model_path.empty()) return {"nostos-mini", "nostos-mini"};
  std::error_code error;
  if (!std::filesystem::exists(model_path, error) && is_model_name(model_path)) {
    const ModelName model = parse_model_name(model_path);
    return {model.name, model.owner + "/" + model.name};
  }
  std::filesystem::path path = std::filesystem::absolute(model_path, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (const std::string full = snapshot_model(path); !full.empty()) return {full.substr(full.find('/') + 1), full};
  std::string name = (std::filesystem::is_regular_file(path, error) ? path.stem() : path.filename()).string();
  if (name.empty()) name = "model";  // the root folder
  return {name, name};
}

std::string webui_parameters(const DrawingRecord& record) {
  const GenerationRequest& request = record.request;
  const std::string negative =
      request.negative_prompt.empty() ? "" : fmt::format("Negative prompt: {}\n", request.negative_prompt);
  const double guidance = request.guidance_scale.value();
  return fmt::format(
      "{}{}\n{}Steps: {}, Sampler: Euler, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}, Guidance scale: {}, "
      "Version: "
      "nostos {}",
      request.prompt, adapter_tags(request.adapters), negative, request.num_inference_steps.value(),
      cfg_scale_of(guidance, record.guidance), request.seed, request.width.value(), request.height.value(),
      setting_value(record.model_name.empty() ? model_label(record.model_path).shown : record.model_name), guidance,
      NOSTOS_VERSION);
}

std::vector<TextChunk> text_chunks(const DrawingRecord& record) {
  return {{"parameters", webui_parameters(record)}, {std::string(kRecordKeyword), to_json(record)}};
}

}  // namespace nostos
