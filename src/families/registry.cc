// Lists the model families. A new one is a line of kFamilies.
#include "families/registry.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "families/flux2_klein/model.h"
#include "families/zimage/model.h"
#include "io/json_config.h"

namespace nostos {
namespace {

struct FamilyEntry {
  std::span<const std::string_view> pipelines;  ///< classes that model_index.json may name
  std::string_view transformer;                 ///< class that transformer/config.json names
  ModelShape (*read_shape)(const std::filesystem::path& folder);
  std::unique_ptr<Family> (*open)(Context& ctx, const FamilyOptions& options);
};

template <class Model>
std::unique_ptr<Family> open_model(Context& ctx, const FamilyOptions& options) {
  return std::make_unique<Model>(ctx, options);
}

constexpr std::array kFamilies{
    FamilyEntry{flux2_klein::kPipelines, flux2_klein::kTransformerClass, flux2_klein::read_shape,
                open_model<flux2_klein::Model>},
    FamilyEntry{zimage::kPipelines, zimage::kTransformerClass, zimage::read_shape, open_model<zimage::Model>},
};

const FamilyEntry& family_of(const std::filesystem::path& folder) {
  std::vector<std::string_view> pipelines;
  for (const FamilyEntry& family : kFamilies)
    pipelines.insert(pipelines.end(), family.pipelines.begin(), family.pipelines.end());
  const std::string name = JsonConfig::load(folder / "model_index.json").class_name(pipelines);
  return *std::ranges::find_if(kFamilies, [&](const FamilyEntry& family) {
    return std::ranges::find(family.pipelines, name) != family.pipelines.end();
  });
}

}  // namespace

std::unique_ptr<Family> open_family(Context& ctx, const FamilyOptions& options) {
  return family_of(options.folder).open(ctx, options);
}

ModelShape read_family_shape(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "model_index.json")) return family_of(folder).read_shape(folder);
  // Configs alone, of whatever model, are enough to plan with.
  std::vector<std::string_view> transformers;
  for (const FamilyEntry& family : kFamilies) transformers.push_back(family.transformer);
  const std::string name = JsonConfig::load(folder / "transformer" / "config.json").class_name(transformers);
  return std::ranges::find(kFamilies, name, &FamilyEntry::transformer)->read_shape(folder);
}

}  // namespace nostos
