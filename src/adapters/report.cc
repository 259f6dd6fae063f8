// Implements the words about an adapter file.
#include "adapters/report.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "adapters/adapter_key.h"
#include "base/error.h"
#include "io/weight_store.h"

namespace nostos {
namespace {

constexpr size_t kMostNames = 4;

/// What part of a canonical key tells of its model, the most telling first.
struct Mark {
  std::string_view part, model;
};
constexpr std::array kMarks{
    Mark{"joint_blocks_", "Stable Diffusion 3"},
    Mark{"input_blocks_", "Stable Diffusion or SDXL"},
    Mark{"output_blocks_", "Stable Diffusion or SDXL"},
    Mark{"down_blocks_", "Stable Diffusion or SDXL"},
    Mark{"up_blocks_", "Stable Diffusion or SDXL"},
    Mark{"mid_block", "Stable Diffusion or SDXL"},
    Mark{"img_mod_", "FLUX.1 or Qwen-Image"},
    Mark{"double_blocks_", "FLUX"},
    Mark{"single_blocks_", "FLUX"},
    Mark{"single_transformer_blocks_", "FLUX"},
    Mark{"transformer_blocks_", "a transformer in diffusers' names"},
    Mark{"noise_refiner_", "Z-Image or Lumina 2"},
    Mark{"context_refiner_", "Z-Image or Lumina 2"},
    Mark{"feed_forward_w", "Z-Image or Lumina 2"},
    Mark{"cross_attn_", "Wan"},
    Mark{"self_attn_q_proj", "a language model"},
};

}  // namespace

std::string_view guess_model(std::span<const std::string> keys) {
  for (const Mark& mark : kMarks)
    for (const std::string& key : keys)
      if (canonical_name(key).find(mark.part) != std::string::npos) return mark.model;
  return "";
}

void refuse_without_match(const TensorFile& file, const AdapterReport& report) {
  std::vector<std::string> keys;
  for (const auto& [key, info] : file.tensors()) keys.push_back(key);
  if (keys.empty()) fail(ErrorKind::model, "{}: the file has no tensors", report.file);
  if (!report.text_encoder.empty() && report.text_encoder.size() == keys.size())
    fail(ErrorKind::model, "{}: all of its {} tensors are for a text encoder, which is not asked for: {}", report.file,
         keys.size(), join_some(keys, kMostNames));
  if (std::ranges::none_of(keys, [](const std::string& key) { return parse_adapter_key(key).has_value(); }))
    fail(ErrorKind::model, "{}: is no adapter: none of its {} tensors is called as those of adapters are: {}",
         report.file, keys.size(), join_some(keys, kMostNames));
  const std::string_view model = guess_model(keys);
  // The names alone may be those of a model whose modules these are not.
  const bool is_same = model.empty() || model.find(report.model) != std::string_view::npos;
  const std::string hint = is_same ? "" : fmt::format("; they look like those of {}", model);
  fail(ErrorKind::model, "{}: none of its {} tensors is for {}{}: {}", report.file, keys.size(), report.model, hint,
       join_some(keys, kMostNames));
}

std::string AdapterReport::summary() const {
  std::vector<std::string> counts;
  for (const auto& [kind, count] : kinds) counts.push_back(fmt::format("{} {}", count, kind));
  std::string text = fmt::format("{}: {} modules ({}) change {} weights of {}; names of {}", file, modules,
                                 fmt::join(counts, ", "), targets, model, fmt::join(layouts, ", "));
  std::vector<std::string> named;
  for (const std::string& prefix : prefixes)
    if (!prefix.empty()) named.push_back(prefix);
  if (!named.empty()) text += fmt::format(" behind {}", fmt::join(named, ", "));
  if (!ranks.empty()) text += fmt::format("; rank {}", fmt::join(ranks, ", "));
  if (!alphas.empty()) text += fmt::format("; alpha {}", fmt::join(alphas, ", "));
  text += ".";
  const auto add = [&](const std::vector<std::string>& names, std::string_view what) {
    if (!names.empty()) text += fmt::format(" {} {}: {}.", names.size(), what, join_some(names, kMostNames));
  };
  add(unmatched, "tensors match nothing and are not used");
  add(text_encoder, "tensors are for the text encoder and are not used");
  add(duplicates, "modules repeat others and are left out");
  return text;
}

}  // namespace nostos
