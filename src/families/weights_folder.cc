// Implements the reading of weights in the diffusers layout.
#include "families/weights_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/error.h"
#include "io/weight_store.h"
#include "models/weight_source.h"

namespace nostos {

void check_part_classes(const std::filesystem::path& folder, std::span<const PartClass> parts) {
  const JsonConfig json = JsonConfig::load(folder / "model_index.json");
  for (const auto& [part, wanted] : parts) {
    if (!json.has(part)) continue;
    const std::vector<std::string> names = json.strings(part);
    require(names.size() == 2 && names[1] == wanted, ErrorKind::model,
            "{}: field '{}' is [\"{}\"], must be [\"diffusers\", \"{}\"]", json.name(), part,
            fmt::join(names, "\", \""), wanted);
  }
}

void require_variant(const FamilyOptions& options, std::span<const std::string_view> parts) {
  if (options.synthetic || options.variant.empty()) return;
  const auto has_it = [&](std::string_view part) {
    return WeightStore::open(options.folder / part, options.variant).variant() == options.variant;
  };
  require(std::ranges::any_of(parts, has_it), ErrorKind::model, "no part of '{}' has weights of the variant '{}'",
          options.folder.string(), options.variant);
}

WeightBuilder weights_of(Context& ctx, const FamilyOptions& options, std::string_view part, WeightWalk walk,
                         const WeightPlacement& placement, std::pair<std::string, std::string> nested_in) {
  std::shared_ptr<WeightSource> source;
  if (!options.synthetic) {
    WeightStore store = WeightStore::open(options.folder / part, options.variant);
    const auto& [prefix, first] = nested_in;
    const bool is_nested = store.info(prefix + first) != nullptr;
    source = std::make_shared<StoreSource>(
        std::move(store), is_nested ? prefix : "",
        walk == WeightWalk::check ? StoreSource::Mode::check_only : StoreSource::Mode::load);
  } else if (walk == WeightWalk::check) {
    source = std::make_shared<ListingSource>();
  } else {
    source = std::make_shared<SyntheticSource>(ctx);
  }
  return WeightBuilder(ctx, std::move(source), options.dtype, placement);
}

}  // namespace nostos
