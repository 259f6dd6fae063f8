// Lists the model families. A new one is a line of kFamilies.
#include "families/registry.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "families/flux2_klein/model.h"
#include "families/shared_parts.h"
#include "families/zimage/model.h"
#include "io/json_config.h"

namespace nostos {
namespace {

struct FamilyEntry {
  std::span<const std::string_view> pipelines;  ///< classes that model_index.json may name
  std::string_view transformer_class;           ///< that transformer/config.json names
  const PartKind& transformer;                  ///< by whose files the family is found where no index names it
  ModelShape (*read_shape)(const FamilyOptions& options);
  PipelineFacts (*pipeline_facts)(const FamilyOptions& options);
  std::unique_ptr<Family> (*open)(Context& ctx, const FamilyOptions& options);
};

template <class Model>
std::unique_ptr<Family> open_model(Context& ctx, const FamilyOptions& options) {
  return std::make_unique<Model>(ctx, options);
}

const std::array kFamilies{
    FamilyEntry{flux2_klein::kPipelines, flux2_klein::kTransformerClass, flux2_klein::kTransformer,
                flux2_klein::read_shape, flux2_klein::pipeline_facts, open_model<flux2_klein::Model>},
    FamilyEntry{zimage::kPipelines, zimage::kTransformerClass, zimage::kTransformer, zimage::read_shape,
                zimage::pipeline_facts, open_model<zimage::Model>},
};

/// \return the family whose transformer the file holds. \throws Error model if it is none's
const FamilyEntry& family_of_file(const FamilyOptions& options, const std::filesystem::path& file) {
  std::vector<std::string_view> marks;
  for (const FamilyEntry& family : kFamilies) {
    if (holds_part(options, file, family.transformer)) return family;
    for (const CheckpointLayout& layout : family.transformer.layouts()) marks.push_back(layout.mark);
  }
  fail(ErrorKind::model,
       "{}: holds no transformer of Z-Image or FLUX.2-klein: no tensor is called {}, with or without a usual prefix",
       file.string(), fmt::join(marks, " or "));
}

/// What a model is opened for.
enum class Purpose { drawing, planning };

/// \return the family whose transformer the folder holds, as its config says. \throws Error model
const FamilyEntry& family_of_transformer(const std::filesystem::path& folder) {
  std::vector<std::string_view> names;
  for (const FamilyEntry& family : kFamilies) names.push_back(family.transformer_class);
  const std::string name = JsonConfig::load(folder / "config.json").class_name(names);
  return *std::ranges::find(kFamilies, name, &FamilyEntry::transformer_class);
}

/// \return the family that the model's folder names. \throws Error model
const FamilyEntry& family_of_folder(const std::filesystem::path& folder, Purpose purpose) {
  // Configs alone, of whatever model, are enough to plan with.
  if (purpose == Purpose::planning && !std::filesystem::exists(folder / "model_index.json"))
    return family_of_transformer(folder / "transformer");
  std::vector<std::string_view> names;
  for (const FamilyEntry& family : kFamilies)
    names.insert(names.end(), family.pipelines.begin(), family.pipelines.end());
  const std::string name = JsonConfig::load(folder / "model_index.json").class_name(names);
  return *std::ranges::find_if(kFamilies, [&](const FamilyEntry& family) {
    return std::ranges::find(family.pipelines, name) != family.pipelines.end();
  });
}

const FamilyEntry& family_of(const FamilyOptions& options, Purpose purpose) {
  const ModelFiles& files = options.files;
  const std::filesystem::path file = files.transformer.empty() ? files.model : files.transformer;
  const bool is_file = std::filesystem::is_regular_file(file);
  if (files.folder().empty()) {
    require(!file.empty(), ErrorKind::model, "no transformer: give --transformer, or --model-path with a model");
    return is_file ? family_of_file(options, file) : family_of_transformer(file);
  }
  const FamilyEntry& family = family_of_folder(files.folder(), purpose);
  if (is_file) {
    const FamilyEntry& other = family_of_file(options, file);
    require(&other == &family, ErrorKind::model, "{} is a {}, and {} holds a model with a {}", file.string(),
            other.transformer.name, files.folder().string(), family.transformer.name);
  }
  return family;
}

}  // namespace

std::vector<const PartKind*> part_kinds() {
  std::vector<const PartKind*> kinds;
  for (const FamilyEntry& family : kFamilies) kinds.push_back(&family.transformer);
  kinds.insert(kinds.end(), {&kTextEncoder, &kVae});
  return kinds;
}

std::unique_ptr<Family> open_family(Context& ctx, const FamilyOptions& options) {
  return family_of(options, Purpose::drawing).open(ctx, options);
}

const PartKind& transformer_kind(const FamilyOptions& options) {
  return family_of(options, Purpose::planning).transformer;
}

PipelineFacts pipeline_facts(const PartKind& transformer, const FamilyOptions& options) {
  const auto family =
      std::ranges::find(kFamilies, &transformer, [](const FamilyEntry& each) { return &each.transformer; });
  check(family != kFamilies.end(), "a transformer is some family's");
  return family->pipeline_facts(options);
}

ModelShape read_family_shape(const ModelFiles& files) {
  const FamilyOptions options{.files = files, .synthetic = true};  // of folders the configs are enough
  return family_of(options, Purpose::planning).read_shape(options);
}

}  // namespace nostos
