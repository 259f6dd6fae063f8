// Owns the ways in which files name the tensors of a model part. Models ask for tensors by the names of the diffusers
// layout; a CheckpointLayout says where a file has them. Each model lists the layouts of its files in its
// file_layouts.h.
#pragma once

#include <cstdint>
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
  /// A tensor, by the file's name for it, that files of this layout have and files of the others do not.
  std::string_view mark;
  /// \param name of a tensor in the diffusers layout, e.g. "layers.0.attention.to_q.weight"
  /// \return what it is made of in a file, from top to bottom. A name without a rule is returned as it is.
  std::vector<TensorRows> (*find)(const std::string& name);
  /// Tensors, by the file's names for them, that such files may have and that no model needs.
  std::span<const std::string_view> leftovers;
};

/// \return `name` itself: the layout of diffusers' folders.
std::vector<TensorRows> find_as_named(const std::string& name);

}  // namespace nostos
