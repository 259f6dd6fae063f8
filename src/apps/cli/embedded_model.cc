// Implements the search for the models that come with the program.
#include "apps/cli/embedded_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>
#include <system_error>

#include "base/error.h"
#include "io/environment.h"
#include "io/model_folder.h"

namespace nostos::cli {
namespace {

bool is_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

/// \return the folder of this name, or of that in `folder`. \param of what the configs are, for the error
std::filesystem::path folder_of_configs(const char* of, const std::filesystem::path& folder, const std::string& name) {
  if (is_folder(name)) return name;
  if (is_folder(folder / name)) return folder / name;
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (is_folder(entry.path())) names.insert(entry.path().filename().string());
  }
  fail(ErrorKind::model, "no configs for a synthetic {}: '{}' is neither a folder nor one of those in '{}'{}", of, name,
       folder.string(), names.empty() ? ", where there are none" : fmt::format(": {}", fmt::join(names, ", ")));
}

}  // namespace

std::filesystem::path models_folder() {
  if (std::filesystem::path named = path_from_environment("NOSTOS_MODELS_DIR"); !named.empty()) {
    require(is_folder(named), ErrorKind::model, "NOSTOS_MODELS_DIR names '{}', which is no folder", named.string());
    return named;
  }
  std::error_code ignored;
  const std::filesystem::path executable = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const std::filesystem::path installed = (executable.parent_path() / NOSTOS_INSTALLED_MODELS).lexically_normal();
  if (is_folder(installed)) return installed;
  if (is_folder(NOSTOS_SOURCE_MODELS)) return NOSTOS_SOURCE_MODELS;
  fail(ErrorKind::model,
       "the models that come with nostos are missing: neither '{}' nor the source tree's models folder exists; "
       "give --model-path, or set NOSTOS_MODELS_DIR",
       installed.string());
}

std::filesystem::path embedded_model() {
  std::filesystem::path folder = models_folder() / "mini";
  require(is_folder(folder), ErrorKind::model, "the embedded model '{}' is missing; give --model-path",
          folder.string());
  return folder;
}

std::filesystem::path find_model(const std::string& path_or_name) {
  return path_or_name.empty() ? embedded_model() : resolve_model_path(path_or_name);
}

std::filesystem::path synthetic_model(const std::string& name_or_folder) {
  return folder_of_configs("model", models_folder(), name_or_folder);
}

std::filesystem::path synthetic_part(const std::filesystem::path& parts, const std::string& name_or_folder) {
  return folder_of_configs("part", parts, name_or_folder);
}

}  // namespace nostos::cli
