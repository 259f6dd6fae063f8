// Implements the writing and reading of drawing records.
#include "apps/cli/drawing_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "apps/cli/json_text.h"
#include "base/error.h"
#include "io/file.h"
#include "io/json_config.h"

namespace nostos::cli {
namespace {

constexpr size_t kMaxPictureBytes = size_t{1} << 30;

}  // namespace

std::string to_json(const DrawingRecord& record) {
  nlohmann::ordered_json json = request_json(record.request);
  json["model_path"] = record.model_path;
  json["precision"] = record.precision;
  if (!record.variant.empty()) json["variant"] = record.variant;
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
  request.seed = static_cast<uint64_t>(json.integer("seed", 0, kMax));
  request.num_outputs = json.integer("num_outputs", 1, kMax);
  request.rng = parse_rng(json.string("rng"));
  request.sigmas = json.numbers("sigmas", 0, 1);
  request.latents = json.string("latents");
  record.model_path = json.string("model_path");
  record.precision = json.string("precision");
  record.variant = json.string_or("variant", "");
  return record;
}

DrawingRecord read_drawing_record(const std::filesystem::path& png) {
  const std::string bytes = read_file(png, kMaxPictureBytes);
  try {
    const std::vector<TextChunk> chunks = read_png_text({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    const auto found = std::ranges::find(chunks, kRecordKeyword, &TextChunk::keyword);
    require(found != chunks.end(), ErrorKind::invalid_input,
            "the picture holds no text chunk '{}', so it does not say how nostos drew it", kRecordKeyword);
    return parse_drawing_record(found->text, fmt::format("text chunk '{}'", kRecordKeyword));
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", png.string(), error.what());
  }
}

std::string model_label(const DrawingRecord& record) {
  if (record.model_path.empty()) return "nostos-mini";
  const std::filesystem::path path = std::filesystem::path(record.model_path).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

std::string webui_parameters(const DrawingRecord& record) {
  const GenerationRequest& request = record.request;
  const std::string negative =
      request.negative_prompt.empty() ? "" : fmt::format("Negative prompt: {}\n", request.negative_prompt);
  return fmt::format(
      "{}\n{}Steps: {}, Sampler: Euler, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}, Version: nostos {}",
      request.prompt, negative, request.num_inference_steps.value(), request.guidance_scale.value(), request.seed,
      request.width.value(), request.height.value(), model_label(record), NOSTOS_VERSION);
}

std::vector<TextChunk> text_chunks(const DrawingRecord& record) {
  return {{"parameters", webui_parameters(record)}, {std::string(kRecordKeyword), to_json(record)}};
}

}  // namespace nostos::cli
