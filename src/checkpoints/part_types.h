// Owns the list of the parts that files may hold, and what each is called, made of and written as. A family's new part
// is a line of it.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "families/part_files.h"
#include "tensor/shape.h"

namespace nostos {

/// The tensors of a part, by their names in the diffusers layout.
struct PartTensors {
  std::map<std::string, Shape> shapes;
  std::vector<std::string> optional;  ///< those that files may have, of whatever dtype and shape: no drawing reads them
};

/// A kind of part, beyond what drawing needs to know.
struct PartType {
  const PartKind* kind;
  /// Names all tensors to the builder. \throws Error model
  void (*walk)(const JsonConfig& config, WeightBuilder& builder);
  /// \return the published model that has these dimensions, or these dimensions: for people. \throws Error model
  std::string (*title)(const JsonConfig& config);

  /// \return the layout of single files that the model's own programs and ComfyUI read.
  const CheckpointLayout& (*own_layout)(const JsonConfig& config);
  std::string_view own_prefix;  ///< before its names
  /// \return what ComfyUI looks for before these in a file of several parts.
  std::string_view (*all_in_one_prefix)(const JsonConfig& config);
  /// \return the shape that a tensor of that layout has there. \param name in the layout \param shape in diffusers
  Shape (*own_shape)(const std::string& name, const Shape& shape);

  std::string_view stem;     ///< of the weights' file in a diffusers folder
  std::string_view library;  ///< that model_index.json names for it
  /// \return the name in a diffusers folder, "" for what the config's class has not.
  std::string (*folder_name)(const JsonConfig& config, const std::string& name);
  /// \return a config of that class with all that diffusers needs. \param config that may be made from tensors
  std::string (*folder_config)(const JsonConfig& config, DType dtype);
};

/// \return the class that the config names, or the only one that it can be.
std::string class_of(const JsonConfig& config, const PartType& type);

/// \return all parts, in the order in which models list them.
std::span<const PartType> part_types();

/// \return the part of this kind. \throws Error internal if there is none
const PartType& part_type(const PartKind& kind);

/// \return all tensors of a part with this config. \throws Error model as the part's load_config()
PartTensors list_tensors(const PartType& type, const JsonConfig& config);

}  // namespace nostos
