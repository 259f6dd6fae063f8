// Owns where models are: those that come with nostos, and what users name. Front ends call it before they make an
// Engine.
#pragma once

#include <filesystem>
#include <string>

#include "families/model_files.h"
#include "pipeline/record.h"

namespace nostos {

/// \return the folder of the models that come with nostos: `given` if it is not empty, else $NOSTOS_MODELS_DIR if set,
/// else `share/nostos/models` of the installation that the program or the shared library stands in, else the source
/// tree's `models` that it was built from. \throws Error model naming the places looked at.
std::filesystem::path models_folder(const std::filesystem::path& given = {});

/// \param name_or_folder a folder of configs, or the name of one under models_folder(), e.g. "z-image-turbo".
/// \throws Error model naming the places looked at.
std::filesystem::path synthetic_model(const std::string& name_or_folder);

/// The same of a part. \param parts the folder of those that a name may mean
std::filesystem::path synthetic_part(const std::filesystem::path& parts, const std::string& name_or_folder);

/// \param model_path as the user gave it, or "": the embedded model, or none where all parts have places of their own
/// \param models as models_folder() takes it
/// \return where the model is. \throws Error model
ModelFiles model_files(const std::string& model_path, const PartPaths& parts, const std::filesystem::path& models = {});

/// \return the path of the model, or of its transformer where only parts have places: for people.
std::string shown_place(const ModelFiles& files);

}  // namespace nostos
