// Owns which models an adapter file fits, and what it holds for each.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adapters/adapter.h"
#include "families/model_files.h"

namespace nostos {

/// A model by the name that people know it by.
struct NamedModel {
  std::string name;
  ModelFiles files;  ///< configs are enough
};

/// What an adapter file is to one model.
struct AdapterFit {
  std::string model;
  std::optional<AdapterReport> report;  ///< where it fits
  std::string problem;                  ///< where it does not: why
};

/// \return the weights of a model that adapters may change: those of the transformer, and of the text encoder where the
/// files have one. \throws Error model
AdapterTargets adapter_targets(const ModelFiles& files, const std::string& model_name);

/// \return what the file is to each of the models. \throws Error model if the file is damaged as a file, or a model is
std::vector<AdapterFit> try_adapter(const std::filesystem::path& file, std::span<const NamedModel> models);

}  // namespace nostos
