// Owns what a single file of weights holds: its parts, whose names and formats they have, and what nobody would use.
// `nostos inspect` shows it.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/part_types.h"
#include "checkpoints/stored_formats.h"

namespace nostos {

/// What a tensor of a file is to the parts in it.
enum class TensorRole {
  weight,    ///< of a part
  scale,     ///< says how a weight is stored
  leftover,  ///< usual in such files, read by no drawing
  unknown,   ///< of no part
};
std::string_view name(TensorRole role);

/// A tensor of a file.
struct FileTensorFacts {
  std::string name;
  std::vector<int64_t> extents;
  std::string format;      ///< format_name(), or the file's word for what nostos does not read
  size_t bytes = 0;        ///< of the tensor
  size_t scale_bytes = 0;  ///< of its scales, which are another tensor
  TensorRole role = TensorRole::unknown;
  std::vector<std::string> names{};  ///< in the diffusers layout, of a weight
  std::optional<size_t> part{};      ///< of FileContents::parts, of a weight or a leftover

  int64_t numbers() const;
};

/// A part that a file holds.
struct FilePart {
  const PartType* type = nullptr;
  std::string_view layout;            ///< whose names it has, e.g. "Z-Image's own"
  std::string prefix;                 ///< before all of them
  std::string title;                  ///< PartType::title
  std::optional<FoundConfig> config;  ///< that would be used
  std::vector<std::string> problems;  ///< why it cannot be used: nothing where it can
};

struct FileContents {
  std::filesystem::path path;
  std::string format;  ///< "safetensors" or e.g. "GGUF 3"
  size_t bytes = 0;    ///< of the file
  std::map<std::string, std::string> metadata;
  bool has_tokenizer = false;
  bool is_adapter = false;
  std::vector<FilePart> parts;
  std::vector<FileTensorFacts> tensors;  ///< by name

  /// \return "transformer", "text encoder", "VAE", "control network", "all-in-one", "adapter" or "unknown".
  std::string_view kind() const;
  /// \return the weights of a part, or all that is no part's and no scale, by how they are stored.
  std::vector<FormatGroup> groups(std::optional<size_t> part) const;
};

/// Reads what a file holds. It loads no weights.
/// \param model_folder of the model that the file is a part of, which may have its config; or empty
/// \throws Error model naming the file, and the tensor where there is one, if it is damaged
FileContents read_contents(const std::filesystem::path& file, const std::filesystem::path& model_folder = {});

}  // namespace nostos
