// Implements the look-up of models.
#include "io/model_folder.h"

#include <algorithm>
#include <string_view>
#include <system_error>

#include "base/error.h"
#include "io/environment.h"
#include "io/file.h"

namespace nostos {
namespace {

/// \return whether `text` can only be the name of one folder: no separators, no "." or "..".
bool is_plain_name(std::string_view text) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  return !text.empty() && text != "." && text != ".." && std::all_of(text.begin(), text.end(), allowed);
}

}  // namespace

std::filesystem::path hugging_face_cache() {
  for (const char* variable : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (std::filesystem::path path = path_from_environment(variable); !path.empty()) return path;
  }
  if (const std::filesystem::path home = path_from_environment("HF_HOME"); !home.empty()) return home / "hub";
  if (const std::filesystem::path cache = path_from_environment("XDG_CACHE_HOME"); !cache.empty()) {
    return cache / "huggingface" / "hub";
  }
  return path_from_environment("HOME") / ".cache" / "huggingface" / "hub";
}

bool is_model_name(std::string_view text) {
  const size_t slash = text.find('/');
  return slash != std::string_view::npos && is_plain_name(text.substr(0, slash)) &&
         is_plain_name(text.substr(slash + 1));
}

std::string snapshot_model(const std::filesystem::path& path) {
  constexpr std::string_view kModels = "models--", kBetween = "--";
  if (path.parent_path().filename() != "snapshots") return {};
  std::string repository = path.parent_path().parent_path().filename().string();
  if (!repository.starts_with(kModels)) return {};
  repository.erase(0, kModels.size());
  // No owner or name has two hyphens in a row.
  if (const size_t end = repository.find(kBetween); end != std::string::npos)
    repository.replace(end, kBetween.size(), "/");
  return repository;
}

std::filesystem::path resolve_model_path(const std::string& path_or_name) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path_or_name, error);
  if (std::filesystem::is_directory(status)) return path_or_name;
  require(!std::filesystem::exists(status), ErrorKind::model, "model '{}' is a file, must be a checkpoint folder",
          path_or_name);

  require(is_model_name(path_or_name), ErrorKind::model,
          "model '{}' not found: it is no existing folder, nor a Hugging Face name like 'Tongyi-MAI/Z-Image-Turbo'",
          path_or_name);
  const size_t slash = path_or_name.find('/');
  const std::string owner = path_or_name.substr(0, slash);
  const std::string name = path_or_name.substr(slash + 1);
  const std::filesystem::path repository = hugging_face_cache() / ("models--" + owner + "--" + name);
  const std::string advice = fmt::format("download it with: hf download {}", path_or_name);

  const std::filesystem::path reference = repository / "refs" / "main";
  require(std::filesystem::is_regular_file(reference, error), ErrorKind::model,
          "model '{}' not found: there is no such folder, and '{}' does not exist; {}", path_or_name,
          reference.string(), advice);
  constexpr size_t kMaxRevisionBytes = 256;
  std::string revision = read_file(reference, kMaxRevisionBytes, ErrorKind::model);
  while (!revision.empty() && (revision.back() == '\n' || revision.back() == '\r' || revision.back() == ' '))
    revision.pop_back();
  require(is_plain_name(revision), ErrorKind::model, "'{}' does not hold a revision; {}", reference.string(), advice);

  const std::filesystem::path snapshot = repository / "snapshots" / revision;
  require(std::filesystem::is_regular_file(snapshot / "model_index.json", error), ErrorKind::model,
          "model '{}' is not completely downloaded: '{}' does not exist; {}", path_or_name,
          (snapshot / "model_index.json").string(), advice);
  return snapshot;
}

}  // namespace nostos
