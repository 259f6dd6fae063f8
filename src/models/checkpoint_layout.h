// Owns the ways in which files name the tensors of a model part. Models ask for tensors by the names of the diffusers
// layout; a CheckpointLayout says where a file has them. Each model lists the layouts of its files in its
// file_layouts.h.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nostos {

/// Rows of a tensor of a file: one of several equal parts along its first axis.
struct TensorRows {
  std::string name;   ///< without the prefix of the file
  int64_t part = 0;   ///< which, counted from 0
  int64_t parts = 1;  ///< of how many

  friend bool operator==(const TensorRows&, const TensorRows&) = default;
};

/// How some files name a part's tensors.
struct CheckpointLayout {
  std::string_view title;  ///< as messages write it, e.g. "diffusers"
  /// A tensor, by the file's name for it, that files of this layout have and files of no layout listed behind it.
  std::string_view mark;
  /// \param name of a tensor in the diffusers layout, e.g. "layers.0.attention.to_q.weight"
  /// \return what it is made of in a file, from top to bottom. A name without a rule is returned as it is.
  std::vector<TensorRows> (*find)(const std::string& name);
  /// Tensors, by the file's names for them, that such files may have and that no model needs.
  std::span<const std::string_view> leftovers;
  /// Another tensor that marks such files beside `mark`; "" where one is enough.
  std::string_view second_mark{};
};

/// \return `name` itself: the layout of diffusers' folders.
std::vector<TensorRows> find_as_named(const std::string& name);

/// How files name some of the tensors. `#` in `name` stands for a number and `*` for any text, never for none. A `#` or
/// `*` in `in_file` is what the next one of its kind in `name` stands for; `~` is the next number, counted back from
/// the last of a part's levels.
struct NameRule {
  std::string_view name;  ///< in the diffusers layout
  std::string_view in_file;
  int64_t part = 0;   ///< of TensorRows
  int64_t parts = 1;  ///< of TensorRows
};

/// \param last_level the number that `~` counts back from
/// \return `name` by the first of `rules` that fits it. Rules of the same name that follow one another say what lies
/// under one another. A name that no rule fits is returned as it is.
std::vector<TensorRows> find_by_rules(std::span<const NameRule> rules, const std::string& name, int64_t last_level = 0);

/// A file's layout, and what stands before all names of the part.
struct FoundLayout {
  const CheckpointLayout* layout;
  std::string_view prefix;
};

/// What may stand before a transformer's names in a file: nothing, or the place of the transformer in an all-in-one
/// file.
inline constexpr std::array<std::string_view, 4> kTransformerPrefixes{"", "model.diffusion_model.", "diffusion_model.",
                                                                      "transformer."};

/// \param has says whether the file has a tensor of a name
/// \param layouts of a model, as its file_layouts() lists them
/// \param prefixes in the order in which they are tried
/// \return the first layout whose marks the file has, nothing if it has none's.
std::optional<FoundLayout> find_layout(const std::function<bool(const std::string& name)>& has,
                                       std::span<const CheckpointLayout> layouts,
                                       std::span<const std::string_view> prefixes);

}  // namespace nostos
