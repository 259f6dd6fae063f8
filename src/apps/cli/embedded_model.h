// Owns where the models that come with the program lie.
#pragma once

#include <filesystem>
#include <string>

namespace nostos::cli {

/// \return the folder of the models that come with the program: $NOSTOS_MODELS_DIR if set, else `share/nostos/models`
/// of the installation that the executable stands in, else the source tree's `models` that it was built from. \throws
/// Error model naming the places looked at.
std::filesystem::path models_folder();

/// \return the folder of the small model that draws where no other is asked for. \throws Error model if it is not
/// there.
std::filesystem::path embedded_model();

/// \return the folder of the model of this path or name (see resolve_model_path()), that of embedded_model() for "".
/// \throws Error model
std::filesystem::path find_model(const std::string& path_or_name);

/// \param name_or_folder a folder of configs, or the name of one under models_folder(), e.g. "z-image-turbo".
/// \throws Error model naming the places looked at.
std::filesystem::path synthetic_model(const std::string& name_or_folder);

/// The same of a part. \param parts the folder of those that a name may mean
std::filesystem::path synthetic_part(const std::filesystem::path& parts, const std::string& name_or_folder);

}  // namespace nostos::cli
