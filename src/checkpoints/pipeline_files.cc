// Implements what stands beside a model's weights.
#include "checkpoints/pipeline_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "families/registry.h"
#include "families/shared_parts.h"
#include "io/file.h"
#include "io/gguf.h"
#include "text/tokenizer_files.h"
#include "text/tokenizer_output.h"

namespace nostos {
namespace {

using Json = nlohmann::ordered_json;
using Path = std::filesystem::path;

constexpr size_t kMostBytes = size_t{64} << 20;  // Qwen3's tokenizer.json has 11 MB

/// \return the kind of the transformer among the parts or, unless it is written, of the files; null without one.
const PartKind* transformer_of(const FamilyOptions& options, const std::vector<PartSource*>& parts) {
  for (const PartSource* part : parts)
    if (part->type().kind->folder == "transformer") return part->type().kind;
  const ModelFiles& files = options.files;
  const Path& place = files.transformer.empty() ? files.model : files.transformer;
  if (!files.folder().empty()) return &transformer_kind(options);
  for (const PartType& type : part_types())
    if (type.kind->folder == "transformer" && std::filesystem::is_regular_file(place) &&
        holds_part(options, place, *type.kind))
      return type.kind;
  return nullptr;
}

std::optional<std::string> text_if_there(const Path& file) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  return read_file(file, kMostBytes, ErrorKind::model);
}

/// \return a text of the model's folder, or of the file.
std::optional<std::string> stated(const FamilyOptions& options, const Path& in_folder, const std::string& in_file) {
  const Path folder = options.files.folder();
  return folder.empty() ? text_in_file(options, in_file) : text_if_there(folder / in_folder);
}

std::string scheduler_text(const FamilyOptions& options, const PipelineFacts& pipeline) {
  if (const auto text = stated(options, "scheduler/scheduler_config.json", "config.scheduler")) return *text;
  return Json{{"_class_name", "FlowMatchEulerDiscreteScheduler"},
              {"base_image_seq_len", 256},
              {"base_shift", 0.5},
              {"max_image_seq_len", 4096},
              {"max_shift", 1.15},
              {"num_train_timesteps", pipeline.scheduler.num_train_timesteps},
              {"shift", pipeline.scheduler.shift},
              {"time_shift_type", "exponential"},
              {"use_dynamic_shifting", pipeline.shifting == Shifting::dynamic}}
             .dump(2) +
         "\n";
}

std::optional<std::string> generation_text(const FamilyOptions& options, const PipelineFacts& pipeline) {
  if (auto text = stated(options, "generation_config.json", "config.generation")) return text;
  if (!options.files.folder().empty() || !pipeline.defaults) return std::nullopt;
  return Json{{"num_inference_steps", pipeline.defaults->steps}, {"guidance_scale", pipeline.defaults->guidance_scale}}
             .dump(2) +
         "\n";
}

std::string index_text(const FamilyOptions& options, const PipelineFacts& pipeline,
                       const std::vector<PartSource*>& parts) {
  const ModelFiles& files = options.files;
  Json index{{"_class_name", pipeline.class_name}};
  if (const auto text = files.folder().empty() ? std::nullopt : text_if_there(files.folder() / "model_index.json"))
    index = Json::parse(JsonConfig::parse(*text, (files.folder() / "model_index.json").string()).dump());
  if (pipeline.is_distilled) index["is_distilled"] = *pipeline.is_distilled;
  for (const PartType& type : part_types()) index.erase(std::string(type.kind->folder));
  for (const PartSource* part : parts) {
    const PartType& type = part->type();
    index[std::string(type.kind->folder)] = {type.library, class_of(part->config().json, type)};
  }
  const bool has_text_encoder =
      std::ranges::any_of(parts, [](const PartSource* part) { return part->type().kind == &kTextEncoder; });
  if (!has_text_encoder)
    index.erase("tokenizer");
  else if (!index.contains("tokenizer"))
    index["tokenizer"] = {"transformers", "Qwen2Tokenizer"};
  if (!index.contains("scheduler")) index["scheduler"] = {"diffusers", "FlowMatchEulerDiscreteScheduler"};
  return index.dump(2) + "\n";
}

void add_tokenizer(std::map<std::string, std::string>& texts, const Path& place) {
  if (is_gguf(place)) {
    for (auto& [name, text] : gguf_tokenizer_texts(GgufFile(place).header(), place.string()))
      texts["tokenizer/" + name] = text;
    return;
  }
  Tokenizer::load(place);  // refuses what nobody could draw with
  for (const std::string_view name : kTokenizerFiles)
    if (auto text = text_if_there(place / name)) texts["tokenizer/" + std::string(name)] = std::move(*text);
}

}  // namespace

std::map<std::string, std::string> folder_texts(const FamilyOptions& options, const std::vector<PartSource*>& parts) {
  std::map<std::string, std::string> texts;
  for (const PartSource* part : parts)
    if (part->type().kind == &kTextEncoder) add_tokenizer(texts, find_tokenizer_place(options, part->files()));
  const PartKind* const transformer = transformer_of(options, parts);
  if (transformer == nullptr) return texts;
  const PipelineFacts pipeline = pipeline_facts(*transformer, options);
  texts["scheduler/scheduler_config.json"] = scheduler_text(options, pipeline);
  texts["model_index.json"] = index_text(options, pipeline, parts);
  if (auto text = generation_text(options, pipeline)) texts["generation_config.json"] = std::move(*text);
  return texts;
}

std::map<std::string, std::string> file_texts(const FamilyOptions& options, const std::vector<PartSource*>& parts) {
  std::map<std::string, std::string> texts{{"format", "pt"}};
  for (const PartSource* part : parts) {
    texts["config." + std::string(part->type().kind->folder)] = part->config().json.dump();
    if (part->type().kind->folder != "transformer") continue;
    const PipelineFacts pipeline = pipeline_facts(*part->type().kind, options);
    texts["config.scheduler"] = scheduler_text(options, pipeline);
    if (auto text = generation_text(options, pipeline)) texts["config.generation"] = std::move(*text);
    if (pipeline.is_distilled) texts["is_distilled"] = *pipeline.is_distilled ? "true" : "false";
  }
  return texts;
}

}  // namespace nostos
