// Implements converting a model.
#include "checkpoints/conversion.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <memory>
#include <set>

#include "base/error.h"
#include "checkpoints/pipeline_files.h"
#include "families/registry.h"
#include "io/file.h"
#include "io/folder_writer.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;
using Parts = std::vector<std::unique_ptr<PartSource>>;

std::vector<PartSource*> pointers(const Parts& parts) {
  std::vector<PartSource*> list;
  for (const auto& part : parts) list.push_back(part.get());
  return list;
}

/// \return where the files have a part of this kind, "" if nowhere.
Path place_of(const FamilyOptions& family, const PartKind& kind) {
  const ModelFiles& files = family.files;
  const Path& own = files.*kind.place;
  if (!own.empty()) return own;
  if (files.model.empty()) return {};
  if (files.folder().empty()) return holds_part(family, files.model, kind) ? files.model : Path();
  const Path folder = files.model / kind.folder;
  return std::filesystem::exists(folder) ? folder : Path();
}

/// \return whether the place of a transformer has one of this kind: a file's tensors, the model's folder or a config
/// says it.
bool is_of_kind(const FamilyOptions& family, const Path& place, const PartType& type) {
  if (std::filesystem::is_regular_file(place)) return holds_part(family, place, *type.kind);
  if (!family.files.folder().empty()) return &transformer_kind(family) == type.kind;
  return JsonConfig::load(place / "config.json").string_or("_class_name", "") ==
         class_of(JsonConfig::parse("{}", ""), type);
}

void require_known(const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    require(std::ranges::any_of(part_types(), [&](const PartType& type) { return type.kind->folder == part; }),
            ErrorKind::invalid_input, "'{}' is no part: use transformer, text_encoder, vae or controlnet", part);
}

Parts open_parts(const FamilyOptions& family, const std::vector<std::string>& wanted) {
  require_known(wanted);
  Parts parts;
  for (const PartType& type : part_types()) {
    const std::string name(type.kind->folder);
    if (!wanted.empty() && std::ranges::find(wanted, name) == wanted.end()) continue;
    const Path place = place_of(family, *type.kind);
    // A file that is named for a part and has none is refused by the part.
    const bool is_other = name == "transformer" && !place.empty() && !is_of_kind(family, place, type);
    if (!place.empty() && !is_other) parts.push_back(std::make_unique<PartSource>(family, type));
  }
  for (const std::string& name : wanted)
    require(std::ranges::any_of(parts, [&](const auto& part) { return part->type().kind->folder == name; }),
            ErrorKind::invalid_input, "the files have no part '{}'", name);
  require(!parts.empty(), ErrorKind::model, "nothing to convert: the files have no transformer, text encoder or VAE");
  return parts;
}

/// \return the adapters, which the parts have from then on.
std::vector<ScaledAdapter> merge_adapters(const std::vector<MergedAdapter>& files, const Parts& parts) {
  if (files.empty()) return {};
  std::vector<AdapterPart> changeable;
  std::string title;
  for (const auto& part : parts) {
    if (part->type().kind->folder == "vae" || !part->type().kind->takes_adapters) continue;
    if (title.empty() || part->type().kind->folder == "transformer") title = part->type().title(part->config().json);
    changeable.push_back(part->adapter_part());
  }
  require(!changeable.empty(), ErrorKind::invalid_input,
          "--lora changes transformers and text encoders, and neither is converted");
  const AdapterTargets targets(title, std::move(changeable));
  std::vector<ScaledAdapter> adapters;
  for (const MergedAdapter& use : files)
    adapters.push_back(
        {std::make_shared<const Adapter>(read_adapter(*open_tensor_file(use.file), targets)), use.strength});
  for (const auto& part : parts) part->adapt(adapters);
  return adapters;
}

ConversionPlan plan_of(const Parts& parts, const std::vector<ScaledAdapter>& adapters) {
  ConversionPlan plan;
  for (const auto& part : parts)
    plan.parts.push_back({std::string(part->type().kind->folder), part->type().title(part->config().json),
                          part->files().path().string(), part->missing()});
  for (const ScaledAdapter& adapter : adapters) plan.adapters.push_back(adapter.adapter->report);
  return plan;
}

void announce(ConversionPlan plan, const std::vector<std::vector<OutputTensor>>& tensors,
              const ConversionProgress& progress) {
  for (const auto& list : tensors) plan.tensors += std::ssize(list);
  if (progress.on_plan) progress.on_plan(plan);
}

WrittenTensors write_file(const ConversionOptions& options, const FamilyOptions& family, const Parts& parts,
                          const std::vector<ScaledAdapter>& adapters, const ConversionProgress& progress) {
  std::vector<OutputTensor> tensors;
  for (const auto& part : parts) {
    std::vector<OutputTensor> own = single_file_tensors(*part, options.dtype, parts.size() > 1);
    std::ranges::move(own, std::back_inserter(tensors));
  }
  announce(plan_of(parts, adapters), {tensors}, progress);
  WrittenTensors written;
  const std::map<std::string, std::string> texts = file_texts(family, pointers(parts));
  write_tensors(options.output, tensors, texts, progress.write, written);
  return written;
}

void write_text(const Path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  write_file_atomically(file, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

WrittenTensors write_folder(const ConversionOptions& options, const FamilyOptions& family, const Parts& parts,
                            const std::vector<ScaledAdapter>& adapters, const ConversionProgress& progress) {
  std::set<std::string> replaceable;
  if (options.may_replace) replaceable.insert(std::begin(kFolderNames), std::end(kFolderNames));
  FolderWriter folder(options.output, replaceable);
  const std::map<std::string, std::string> texts = folder_texts(family, pointers(parts));
  std::vector<std::vector<OutputTensor>> tensors;
  for (const auto& part : parts) tensors.push_back(folder_tensors(*part, options.dtype));
  announce(plan_of(parts, adapters), tensors, progress);
  WrittenTensors written;
  for (size_t i = 0; i < parts.size(); ++i) {
    const PartType& type = parts[i]->type();
    const Path place = folder.path() / type.kind->folder;
    write_text(place / "config.json", type.folder_config(parts[i]->config().json, options.dtype));
    write_tensors(place / fmt::format("{}.safetensors", type.stem), tensors[i], {{"format", "pt"}}, progress.write,
                  written);
  }
  for (const auto& [name, text] : texts) write_text(folder.path() / name, text);
  folder.commit();
  return written;
}

/// \return whether the output is a file, which its name says.
/// \throws Error invalid_input if it is to be a folder, and is called as if it were a file
bool names_file(const Path& output) {
  const bool is_folder = !output.has_filename();
  std::string ending = (is_folder ? output.parent_path() : output).extension().string();
  std::ranges::transform(ending, ending.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (ending == ".safetensors" && !is_folder) return true;
  constexpr std::array<std::string_view, 7> kFileEndings{".safetensors", ".sft", ".gguf", ".pt",
                                                         ".pth",         ".bin", ".ckpt"};
  require(std::ranges::find(kFileEndings, ending) == kFileEndings.end(), ErrorKind::invalid_input,
          "cannot write '{}': nostos writes folders, and files whose names end in .safetensors", output.string());
  return false;
}

}  // namespace

void require_output_file(const Path& output, bool may_replace) {
  const Path file = require_writable(output);
  require(may_replace || !std::filesystem::exists(file), ErrorKind::invalid_input,
          "'{}' is there: name another file, or replace it with --overwrite", output.string());
}

WrittenTensors write_int8_transformer(const Int8FileOptions& options,
                                      const std::function<void(int64_t tensors)>& on_plan,
                                      const WriteProgress& progress) {
  const FamilyOptions family{.files = options.files, .variant = options.variant};
  PartSource part(family, part_type(transformer_kind(family)));
  std::vector<OutputTensor> tensors = single_file_tensors(part, DType::bf16, false);
  round_tensors(tensors, options.matrices);
  std::map<std::string, std::string> texts = file_texts(family, {&part});
  texts.insert(options.texts.begin(), options.texts.end());
  on_plan(std::ssize(tensors));
  WrittenTensors written;
  write_tensors(options.output, tensors, texts, progress, written);
  return written;
}

WrittenTensors convert_model(const ConversionOptions& options, const ConversionProgress& progress) {
  const bool is_file = names_file(options.output);
  if (is_file) require_output_file(options.output, options.may_replace);
  const FamilyOptions family{.files = options.files, .variant = options.variant};
  const Parts parts = open_parts(family, options.parts);
  const std::vector<ScaledAdapter> adapters = merge_adapters(options.adapters, parts);
  return is_file ? write_file(options, family, parts, adapters, progress)
                 : write_folder(options, family, parts, adapters, progress);
}

}  // namespace nostos
