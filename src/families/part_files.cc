// Finds parts in folders and files, and opens their weights.
#include "families/part_files.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "models/weight_source.h"
#include "ops/elementwise.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;

std::optional<FoundLayout> layout_in(const WeightStore& store, const PartKind& kind) {
  return find_layout([&](const std::string& name) { return store.info(name) != nullptr; }, kind.layouts(),
                     kind.prefixes());
}

/// \throws Error model saying what the file has
[[noreturn]] void refuse_file(const WeightStore& store, const PartKind& kind) {
  std::vector<std::string_view> marks;
  for (const CheckpointLayout& layout : kind.layouts()) marks.push_back(layout.mark);
  std::vector<std::string> names;
  for (const auto& [name, info] : store.list()) names.push_back(name);
  std::vector<std::string_view> parts;
  for (const PartKind* other : part_kinds())
    if (layout_in(store, *other)) parts.push_back(other->name);
  const std::string found = !parts.empty()  ? fmt::format("it holds a {}", fmt::join(parts, " and a "))
                            : names.empty() ? "it holds no tensors"
                                            : "its tensors are " + join_some(names, 4);
  fail(ErrorKind::model, "{}: holds no {}: no tensor is called {}, with or without a usual prefix; {}",
       store.path().string(), kind.name, fmt::join(marks, " or "), found);
}

/// \return what a config says that it is of, "" if it does not.
std::string named_class(const JsonConfig& json) {
  if (json.has("_class_name")) return json.string("_class_name");
  const std::vector<std::string> architectures = json.strings_or("architectures", {});
  return architectures.empty() ? json.string_or("model_type", "") : architectures.front();
}

const Path& place_of_texts(const ModelFiles& files) {
  return files.transformer.empty() ? files.model : files.transformer;
}

}  // namespace

void check_part_classes(const ModelFiles& files, std::span<const PartClass> parts) {
  const auto json = JsonConfig::load_if_there(files.folder() / "model_index.json");
  if (files.folder().empty() || !json) return;
  for (const auto& [part, wanted] : parts) {
    if (!json->has(part)) continue;
    const std::vector<std::string> names = json->strings(part);
    require(names.size() == 2 && names[1] == wanted, ErrorKind::model,
            "{}: field '{}' is [\"{}\"], must be [\"diffusers\", \"{}\"]", json->name(), part,
            fmt::join(names, "\", \""), wanted);
  }
}

std::optional<std::string> text_in_file(const FamilyOptions& options, const std::string& name) {
  const Path& file = place_of_texts(options.files);
  if (!std::filesystem::is_regular_file(file)) return std::nullopt;
  const std::string* const text = options.stores->open(file)->metadata(name);
  return text == nullptr ? std::nullopt : std::optional(*text);
}

std::optional<JsonConfig> config_in_file(const FamilyOptions& options, const std::string& name) {
  const std::optional<std::string> text = text_in_file(options, name);
  if (!text) return std::nullopt;
  return JsonConfig::parse(*text, fmt::format("{}: metadata '{}'", place_of_texts(options.files).string(), name));
}

void read_generation_config(const FamilyOptions& options, ModelLimits& limits) {
  limits.default_height = std::min(limits.default_height, limits.max_side);
  limits.default_width = std::min(limits.default_width, limits.max_side);
  const std::filesystem::path folder = options.files.folder();
  const std::optional<JsonConfig> json = folder.empty() ? config_in_file(options, "config.generation")
                                                        : JsonConfig::load_if_there(folder / "generation_config.json");
  if (!json) return;
  limits.default_steps = json->integer_or("num_inference_steps", limits.default_steps, 1, kMaxSteps);
  limits.default_guidance_scale = json->number_or("guidance_scale", limits.default_guidance_scale, 0, kMaxGuidance);
  limits.default_height = json->integer_or("height", limits.default_height, 1, limits.max_side);
  limits.default_width = json->integer_or("width", limits.default_width, 1, limits.max_side);
}

bool holds_part(const FamilyOptions& options, const Path& file, const PartKind& kind) {
  return layout_in(*options.stores->open(file), kind).has_value();
}

namespace {

/// \return what becomes of the products of a part's blocks: those of a denoising step, or the text encoder's.
BlockProducts products_of(const FamilyOptions& options, const PartKind& kind) {
  if (kind.place == &ModelFiles::text_encoder) return {BlockUse::once_a_prompt, options.rounds_text};
  return {.use = BlockUse::each_step,
          .round = options.rounds_products,
          .kept = options.kept_products.value_or(
              std::set<std::string>(kind.kept_products.begin(), kind.kept_products.end())),
          .watch = options.input_watch};
}

/// \return whether some matrix of the part is stored as 8-bit whole numbers.
bool has_int8(const WeightStore& store, const CheckpointNames& names) {
  return std::ranges::any_of(store.weights(), [&](const std::string& name) {
    return name.starts_with(names.prefix) && store.info(name)->dtype_name == nostos::name(StoredType::i8) &&
           store.format(name).type == StoredType::i8;
  });
}

}  // namespace

PartFiles::PartFiles(const FamilyOptions& options, const PartKind& kind)
    : path_(options.files.*kind.place),
      model_folder_(options.files.folder()),
      is_synthetic_(options.synthetic),
      synthetic_format_(synthetic_format_of(kind.folder, options.synthetic_format)),
      synthetic_kind_(options.synthetic_hostile && kind.place == &ModelFiles::transformer ? SyntheticKind::hostile
                                                                                          : SyntheticKind::plain),
      dtype_(options.dtype),
      products_(products_of(options, kind)),
      kind_(&kind) {
  const Path& model = options.files.model;
  if (path_.empty() && !model_folder_.empty()) path_ = model_folder_ / kind.folder;
  if (path_.empty() && !model.empty()) {
    require(holds_part(options, model, kind), ErrorKind::model, "{}: holds no {}: give {}", model.string(), kind.name,
            kind.flag);
    path_ = model;
  }
  require(!path_.empty(), ErrorKind::model, "no {}: give {}, or --model-path with a model that has one", kind.name,
          kind.flag);
  is_file_ = std::filesystem::is_regular_file(path_);
  if (synthetic_format_ && synthetic_format_->type == StoredType::i8) take_as_stored(options);
  if (is_synthetic_ && !is_file_) return;
  store_ = options.stores->open(path_, options.variant);
  has_variant_ = !is_file_ && store_->variant() == options.variant;
  const std::optional<FoundLayout> found = layout_in(*store_, kind);
  if (!found && is_file_) refuse_file(*store_, kind);
  // A folder's missing tensors are all named by the walk.
  if (found) names_ = {found->layout, std::string(found->prefix), is_file_};
  if (has_int8(*store_, names_)) take_as_stored(options);
}

// Who made a file with 8-bit matrices has chosen what is rounded.
void PartFiles::take_as_stored(const FamilyOptions& options) {
  products_.only_stored = true;
  if (!options.kept_products) products_.kept.clear();
}

std::optional<JsonConfig> PartFiles::config_beside_file(const TensorShapes& shapes) const {
  if (!is_file_) return std::nullopt;
  std::optional<JsonConfig> json = JsonConfig::load_if_there(path_.parent_path() / "config.json");
  // Files of many models may share a folder: a config that does not name the part's class may be another file's.
  if (!json) return std::nullopt;
  const std::span<const std::string_view> classes = kind_->classes(shapes);
  return std::ranges::find(classes, named_class(*json)) == classes.end() ? std::nullopt : json;
}

FoundConfig PartFiles::find_config() const {
  if (!is_file_ && (names_.layout == nullptr || std::filesystem::exists(path_ / "config.json")))
    return {JsonConfig::load(path_ / "config.json"), ConfigPlace::beside_weights};
  const std::string field = "config." + std::string(kind_->folder);
  if (const std::string* text = store_->metadata(field))
    return {JsonConfig::parse(*text, fmt::format("{}: metadata '{}'", path_.string(), field)), ConfigPlace::in_file};
  const TensorShapes shapes(path_.string(), [this](const std::string& name) -> std::optional<Shape> {
    const std::vector<TensorRows> rows = names_.find(name);
    const TensorInfo* info = store_->info(rows.front().name);
    std::optional<Shape> whole = info == nullptr ? std::nullopt : info->shape();
    if (!whole || whole->rank() == 0) return whole;
    Shape shape{(*whole)[0] / rows.front().parts * static_cast<int64_t>(rows.size())};
    for (int axis = 1; axis < whole->rank(); ++axis) shape.push_back((*whole)[axis]);
    return shape;
  });
  if (auto config = config_beside_file(shapes)) return {std::move(*config), ConfigPlace::beside_weights};
  if (!model_folder_.empty()) {
    if (auto config = JsonConfig::load_if_there(model_folder_ / kind_->folder / "config.json"))
      return {std::move(*config), ConfigPlace::model_folder};
  }
  return {kind_->guess_config(shapes, *store_), ConfigPlace::tensors};
}

std::shared_ptr<WeightSource> PartFiles::weight_source(Context& ctx, WeightWalk walk) const {
  const bool checks = walk == WeightWalk::check;
  if (!is_synthetic_)
    return std::make_shared<StoreSource>(store_, names_,
                                         checks ? StoreSource::Mode::check_only : StoreSource::Mode::load);
  if (checks) return std::make_shared<ListingSource>(synthetic_format_);
  return std::make_shared<SyntheticSource>(ctx, synthetic_format_, synthetic_kind_);
}

WeightBuilder PartFiles::weights(Context& ctx, WeightWalk walk, const WeightPlacement& placement) const {
  WeightBuilder builder(ctx, weight_source(ctx, walk), dtype_, placement);
  builder.set_products(products_);
  return builder;
}

ReadWeight PartFiles::weight_reader(const std::map<std::string, Shape>& shapes) const {
  const auto host = std::make_shared<Context>();
  return [host, source = weight_source(*host, WeightWalk::load), &shapes](const std::string& name) {
    const Shape& shape = shapes.at(name);
    const ConstView from = source->tensor(name, shape);
    source->finish();
    std::vector<float> values(static_cast<size_t>(shape.elements()));
    ops::convert(*host, from, View(reinterpret_cast<std::byte*>(values.data()), DType::f32, shape));
    source->release(name);
    return values;
  };
}

void require_variant(const FamilyOptions& options, std::initializer_list<const PartFiles*> parts) {
  if (options.synthetic || options.variant.empty()) return;
  require(std::ranges::any_of(parts, &PartFiles::has_variant), ErrorKind::model,
          "no part of '{}' has weights of the variant '{}'", options.files.model.string(), options.variant);
}

}  // namespace nostos
