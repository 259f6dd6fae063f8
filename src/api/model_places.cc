// Implements the search for models.
#include "api/model_places.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/auxv.h>

#include <set>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "io/environment.h"
#include "io/model_folder.h"
#include "io/unfinished.h"

namespace nostos {
namespace {

bool is_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

/// \return where an installation has its models, seen from the shared library that this function is part of, or from
/// the program.
std::filesystem::path installed_models() {
  const auto file_of = [](const void* address) {
    Dl_info found{};
    return dladdr(address, &found) != 0 ? found : Dl_info{};
  };
  const Dl_info own = file_of(reinterpret_cast<const void*>(&installed_models));
  const Dl_info program = file_of(reinterpret_cast<const void*>(getauxval(AT_ENTRY)));
  std::error_code ignored;
  if (own.dli_fname != nullptr && own.dli_fbase != program.dli_fbase) {
    const std::filesystem::path library = std::filesystem::canonical(own.dli_fname, ignored);
    return (library.parent_path() / NOSTOS_MODELS_FROM_LIBRARY).lexically_normal();
  }
  const std::filesystem::path executable = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return (executable.parent_path() / NOSTOS_MODELS_FROM_PROGRAM).lexically_normal();
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

std::filesystem::path embedded_model(const std::filesystem::path& models) {
  std::filesystem::path folder = models_folder(models) / "mini";
  require(is_folder(folder), ErrorKind::model, "the embedded model '{}' is missing; give --model-path",
          folder.string());
  return folder;
}

/// \return folders where Qwen3's tokenizer may be: where scripts/fetch_tokenizer.sh puts it, and those of the models
/// that have it, in the Hugging Face cache.
std::vector<std::filesystem::path> usual_tokenizers() {
  std::vector<std::filesystem::path> folders;
  if (!cache_folder().empty()) folders.push_back(cache_folder() / "qwen3-tokenizer");
  for (const auto& [model, inside] : {std::pair{"Tongyi-MAI/Z-Image-Turbo", "tokenizer"},
                                      {"Tongyi-MAI/Z-Image", "tokenizer"},
                                      {"black-forest-labs/FLUX.2-klein-4B", "tokenizer"},
                                      {"black-forest-labs/FLUX.2-klein-9B", "tokenizer"},
                                      {"Qwen/Qwen3-4B", ""},
                                      {"Qwen/Qwen3-8B", ""}}) {
    try {
      folders.push_back(resolve_model_path(model) / inside);
    } catch (const Error&) {  // it is not in the cache
    }
  }
  return folders;
}

}  // namespace

std::filesystem::path models_folder(const std::filesystem::path& given) {
  const std::filesystem::path named = given.empty() ? path_from_environment("NOSTOS_MODELS_DIR") : given;
  if (!named.empty()) {
    require(is_folder(named), ErrorKind::model, "{} names '{}', which is no folder",
            given.empty() ? "NOSTOS_MODELS_DIR" : "models_dir", named.string());
    return named;
  }
  const std::filesystem::path installed = installed_models();
  if (is_folder(installed)) return installed;
  if (is_folder(NOSTOS_SOURCE_MODELS)) return NOSTOS_SOURCE_MODELS;
  fail(ErrorKind::model,
       "the models that come with nostos are missing: neither '{}' nor the source tree's models folder exists; "
       "give --model-path, or set NOSTOS_MODELS_DIR",
       installed.string());
}

std::filesystem::path synthetic_model(const std::string& name_or_folder) {
  return folder_of_configs("model", models_folder(), name_or_folder);
}

std::filesystem::path synthetic_part(const std::filesystem::path& parts, const std::string& name_or_folder) {
  return folder_of_configs("part", parts, name_or_folder);
}

ModelFiles model_files(const std::string& model_path, const PartPaths& parts, const std::filesystem::path& models) {
  ModelFiles files;
  PartPaths of_model = parts;
  of_model.controlnet.clear();  // which stands beside any model
  if (!model_path.empty())
    files.model = resolve_model_path(model_path);
  else if (of_model == PartPaths{})
    files.model = embedded_model(models);
  const auto set = [](const char* flag, const std::string& given, std::filesystem::path& place) {
    std::error_code error;
    if (!given.empty() && !std::filesystem::exists(given, error))
      fail(ErrorKind::model, "{} '{}': {}", flag, given, why_not_there(given));
    place = given;
  };
  set("--transformer", parts.transformer, files.transformer);
  set("--text-encoder", parts.text_encoder, files.text_encoder);
  set("--vae", parts.vae, files.vae);
  set("--tokenizer", parts.tokenizer, files.tokenizer);
  set("--controlnet", parts.controlnet, files.controlnet);
  files.is_base = parts.is_base;
  if (files.folder().empty()) files.usual_tokenizers = usual_tokenizers();
  return files;
}

std::string shown_place(const ModelFiles& files) {
  return (files.model.empty() ? files.transformer : files.model).string();
}

}  // namespace nostos
