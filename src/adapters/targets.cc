// Implements the dictionaries of names by which adapter files speak of a model's weights.
#include "adapters/targets.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"

namespace nostos {
namespace {

using namespace std::string_view_literals;

/// What trainers and tools write before a module's name, canonical. Several may follow one another.
constexpr std::array kPrefixes{"lora_unet_"sv,       "lora_transformer_"sv, "lycoris_"sv, "lora_"sv, "transformer_"sv,
                               "diffusion_model_"sv, "base_model_model_"sv, "model_"sv,   "unet_"sv};
/// The same for a text encoder; the first group marks it as one.
constexpr std::array kTextPrefixes{"lora_te_"sv,      "lora_te1_"sv,      "lora_te2_"sv,          "lora_te3_"sv,
                                   "text_encoder_"sv, "text_encoders_"sv, "lora_text_encoder_"sv, "text_encoder_2_"sv};
constexpr std::array kInnerTextPrefixes{"qwen3_4b_"sv, "qwen3_8b_"sv,   "transformer_"sv,
                                        "model_"sv,    "text_model_"sv, "base_model_model_"sv};
constexpr int kMostPrefixes = 4;
/// What a module's tensors are called after its name; a name of a raw parameter has nothing more.
constexpr std::array kWeightLeaves{"_weight"sv, "_scale"sv, ""sv};
constexpr std::string_view kBiasLeaf = "_bias";

/// Projections that a model may hold as one matrix, as diffusers names them apart and together.
struct FusedProjections {
  std::array<std::string_view, 3> apart;
  std::string_view together;
};
constexpr std::array kFused{FusedProjections{{"to_q", "to_k", "to_v"}, "to_qkv"},
                            FusedProjections{{"add_q_proj", "add_k_proj", "add_v_proj"}, "to_added_qkv"}};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// \return `name` with one '#' for each run of digits between underscores.
std::string pattern_of(std::string_view name) {
  std::string pattern;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool starts = is_digit(name[i]) && (i == 0 || name[i - 1] == '_');
    size_t end = i;
    while (starts && end < name.size() && is_digit(name[end])) ++end;
    if (end > i && (end == name.size() || name[end] == '_')) {
      pattern += '#';
      i = end - 1;
    } else {
      pattern += name[i];
    }
  }
  return pattern;
}

int64_t rows_of(const Shape& shape) { return shape.rank() == 0 ? 1 : shape[0]; }
int64_t columns_of(const Shape& shape) { return rows_of(shape) == 0 ? 0 : shape.elements() / rows_of(shape); }

}  // namespace

std::string canonical_name(std::string_view name) {
  std::string canonical(name);
  std::replace(canonical.begin(), canonical.end(), '.', '_');
  return canonical;
}

AdapterTargets::AdapterTargets(std::string model, std::vector<AdapterPart> parts)
    : model_(std::move(model)), parts_(std::move(parts)) {
  for (size_t i = 0; i < parts_.size(); ++i) {
    add_layout(i, nullptr);
    add_fused_projections(i);
    for (const CheckpointLayout& layout : parts_[i].layouts) add_layout(i, &layout);
  }
}

bool AdapterTargets::has_text_encoder() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const AdapterPart& p) { return p.name == kTextEncoderPart; });
}

void AdapterTargets::add_layout(size_t part, const CheckpointLayout* layout) {
  std::map<std::string, FileTensor> tensors;
  for (const auto& [target, shape] : parts_[part].shapes) {
    const std::vector<TensorRows> found =
        layout == nullptr ? std::vector<TensorRows>{{target, 0, 1}} : layout->find(target);
    const int64_t rows = rows_of(shape), pieces = static_cast<int64_t>(found.size());
    if (pieces == 0 || rows % pieces != 0) continue;
    const int64_t count = rows / pieces;
    for (int64_t i = 0; i < pieces; ++i) {
      const TensorRows& from = found[static_cast<size_t>(i)];
      FileTensor& tensor = tensors[from.name];
      tensor.part = part;
      tensor.name = from.name;
      tensor.layout = layout == nullptr ? "diffusers" : std::string(layout->title);
      tensor.is_diffusers = layout == nullptr;
      tensor.rows = std::max(tensor.rows, count * from.parts);
      tensor.columns = columns_of(shape);
      tensor.pieces.push_back({target, i * count, count, from.part * count});
    }
  }
  for (auto& [name, tensor] : tensors) {
    std::sort(tensor.pieces.begin(), tensor.pieces.end(),
              [](const TargetRows& a, const TargetRows& b) { return a.from < b.from; });
    add(std::move(tensor));
  }
}

void AdapterTargets::add_fused_projections(size_t part) {
  const std::map<std::string, Shape>& shapes = parts_[part].shapes;
  for (const auto& [target, shape] : shapes) {
    for (const FusedProjections& fused : kFused) {
      const std::string first = "." + std::string(fused.apart[0]) + ".weight";
      if (!target.ends_with(first)) continue;
      const std::string block = target.substr(0, target.size() - first.size()) + ".";
      FileTensor tensor{part, block + std::string(fused.together) + ".weight", "diffusers", true, 0, 0, {}};
      for (const std::string_view name : fused.apart) {
        const auto found = shapes.find(block + std::string(name) + ".weight");
        if (found == shapes.end()) continue;
        const int64_t rows = rows_of(found->second);
        tensor.pieces.push_back({found->first, 0, rows, tensor.rows});
        tensor.rows += rows;
        tensor.columns = columns_of(found->second);
      }
      tensor.is_diffusers = false;  // the projections apart come before it
      if (tensor.pieces.size() == fused.apart.size()) add(std::move(tensor));
    }
  }
}

void AdapterTargets::add(FileTensor tensor) {
  std::string canonical = canonical_name(tensor.name);
  const auto [begin, end] = tensors_.equal_range(canonical);
  for (auto known = begin; known != end; ++known) {
    if (known->second.part == tensor.part && known->second.pieces == tensor.pieces) return;
  }
  patterns_.insert(pattern_of(canonical));
  tensors_.emplace(std::move(canonical), std::move(tensor));
}

bool AdapterTargets::find_in_part(size_t part, std::string_view name, ModuleMatch& match) const {
  const auto collect = [&](std::string_view leaf, std::vector<const FileTensor*>& found) {
    const std::string canonical = std::string(name) + std::string(leaf);
    const auto [begin, end] = tensors_.equal_range(canonical);
    for (auto tensor = begin; tensor != end; ++tensor)
      if (tensor->second.part == part) found.push_back(&tensor->second);
    if (found.empty() && patterns_.contains(pattern_of(canonical))) match.is_missing_layer = true;
  };
  for (const std::string_view leaf : kWeightLeaves)
    if (match.weights.empty()) collect(leaf, match.weights);
  collect(kBiasLeaf, match.biases);
  return match.found();
}

void AdapterTargets::search(std::string_view name, int depth, ModuleMatch& match) const {
  constexpr std::string_view kMisspelt = "sformer_blocks_";  // of FLUX.2's transformer_blocks, by some exports
  while (name.starts_with('_')) name.remove_prefix(1);       // lora_unet__
  const std::string mended = (name.starts_with(kMisspelt) ? "tran" : "") + std::string(name);
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (match.is_text_encoder && parts_[i].name != kTextEncoderPart) continue;
    if (!find_in_part(i, mended, match)) continue;
    match.name_length = name.size();
    return;
  }
  if (depth == kMostPrefixes) return;
  const std::span<const std::string_view> prefixes =
      match.is_text_encoder ? std::span<const std::string_view>(kInnerTextPrefixes) : kPrefixes;
  for (const std::string_view prefix : prefixes) {
    if (!name.starts_with(prefix)) continue;
    search(name.substr(prefix.size()), depth + 1, match);
    if (match.found()) return;
  }
}

ModuleMatch AdapterTargets::find(std::string_view module) const {
  ModuleMatch match;
  std::string_view rest = module;
  for (const std::string_view prefix : kTextPrefixes) {
    if (!module.starts_with(prefix)) continue;
    match.is_text_encoder = true;
    rest = module.substr(prefix.size());
  }
  search(rest, 0, match);
  match.is_missing_layer = match.is_missing_layer && !match.found();
  return match;
}

}  // namespace nostos
