// Implements the look-up of models.
#include "io/model_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "io/environment.h"
#include "io/file.h"
#include "io/unfinished.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;

/// \return whether `text` can only be the name of one folder: no separators, no "." or "..".
bool is_plain_name(std::string_view text) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  return !text.empty() && text != "." && text != ".." && std::all_of(text.begin(), text.end(), allowed);
}

/// \return whether `text` is a revision that stays inside a folder: plain names with "/" between, like "refs/pr/1".
bool is_revision(std::string_view text) {
  while (true) {
    const size_t slash = text.find('/');
    if (!is_plain_name(text.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    text.remove_prefix(slash + 1);
  }
}

/// \return whether `name` has the ending of a file of weights, as no model's name has.
bool is_called_as_file(std::string_view name) { return name.ends_with(".safetensors") || name.ends_with(".gguf"); }

/// A model's folder in the cache.
class Repository {
 public:
  explicit Repository(ModelName name)
      : name_(std::move(name)), folder_(hugging_face_cache() / ("models--" + name_.owner + "--" + name_.name)) {}

  /// \return the folder of the revision asked for, else of `main`, else of the only snapshot.
  Path snapshot() const {
    const std::string revision = name_.revision.empty() ? "main" : name_.revision;
    if (const Path reference = folder_ / "refs" / revision; exists(reference)) return complete(read_commit(reference));
    if (!name_.revision.empty() && exists(folder_ / "snapshots" / revision)) return complete(revision);
    const std::vector<std::string> commits = snapshots();
    const std::string reference = (folder_ / "refs" / revision).string();
    if (!name_.revision.empty() || commits.empty()) {
      fail(ErrorKind::model, "model '{}' not found: there is no such folder, and '{}' does not exist{}; {}",
           full_name(), reference, what_is_there(), advice());
    }
    require(commits.size() == 1, ErrorKind::model,
            "model '{}' is there in {} revisions, none of them called main: choose one with --revision{}", full_name(),
            commits.size(), what_is_there());
    log_warning("model '{}': '{}' does not exist, its only revision {} is taken", full_name(), reference, commits[0]);
    return complete(commits[0]);
  }

 private:
  static bool exists(const Path& path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
  }

  std::string full_name() const { return name_.owner + "/" + name_.name; }
  std::string advice() const {
    return fmt::format("download it with: nostos pull {}{}", full_name(),
                       name_.revision.empty() ? "" : "@" + name_.revision);
  }

  std::string read_commit(const Path& reference) const {
    constexpr size_t kMaxCommitBytes = 256;
    std::string commit = read_file(reference, kMaxCommitBytes, ErrorKind::model);
    while (!commit.empty() && (commit.back() == '\n' || commit.back() == '\r' || commit.back() == ' '))
      commit.pop_back();
    require(is_plain_name(commit), ErrorKind::model, "'{}' does not hold a revision; {}", reference.string(), advice());
    return commit;
  }

  std::vector<std::string> snapshots() const {
    std::vector<std::string> commits;
    std::error_code error;
    const Path folder = folder_ / "snapshots";
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
      commits.push_back(entry->path().filename().string());
    std::sort(commits.begin(), commits.end());
    return commits;
  }

  /// \return the revisions that can be asked for, as a half sentence.
  std::string what_is_there() const {
    constexpr size_t kNamedAtMost = 8;
    std::vector<std::string> revisions = snapshots();
    std::error_code error;
    const Path folder = folder_ / "refs";
    for (std::filesystem::recursive_directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
      if (entry->is_regular_file(error))
        revisions.insert(revisions.begin(), entry->path().lexically_relative(folder).string());
    }
    if (revisions.empty()) return "";
    revisions.resize(std::min(revisions.size(), kNamedAtMost));
    return fmt::format(" (there is {})", fmt::join(revisions, ", "));
  }

  Path complete(const std::string& commit) const {
    const Path snapshot = folder_ / "snapshots" / commit;
    const Path index = snapshot / "model_index.json";
    if (!exists(index)) {
      fail(ErrorKind::model, "model '{}' is not completely downloaded: cannot read '{}': {}; {}", full_name(),
           index.string(), why_not_there(index), advice());
    }
    return snapshot;
  }

  ModelName name_;
  Path folder_;
};

}  // namespace

Path hugging_face_home() {
  if (const Path home = path_from_environment("HF_HOME"); !home.empty()) return home;
  if (const Path cache = path_from_environment("XDG_CACHE_HOME"); !cache.empty()) return cache / "huggingface";
  return Path(expand_path("~")) / ".cache" / "huggingface";
}

Path hugging_face_cache() {
  for (const char* variable : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (Path path = path_from_environment(variable); !path.empty()) return path;
  }
  return hugging_face_home() / "hub";
}

ModelName parse_model_name(std::string_view text) {
  const size_t at = std::min(text.find('@'), text.size());
  const std::string_view name = text.substr(0, at);
  const size_t slash = std::min(name.find('/'), name.size());
  require(!is_called_as_file(name), ErrorKind::model, "model '{}' not found: there is no such file", text);
  const bool is_name =
      slash < name.size() && is_plain_name(name.substr(0, slash)) && is_plain_name(name.substr(slash + 1));
  require(is_name, ErrorKind::model,
          "model '{}' not found: it is no existing folder, nor a Hugging Face name like 'Tongyi-MAI/Z-Image-Turbo'",
          text);
  ModelName parts{std::string(name.substr(0, slash)), std::string(name.substr(slash + 1)), ""};
  if (at == text.size()) return parts;
  parts.revision = text.substr(at + 1);
  require(is_revision(parts.revision), ErrorKind::model,
          "model '{}': '{}' is no revision; it must be a branch, a tag or a commit", text, parts.revision);
  return parts;
}

bool is_model_name(std::string_view text) {
  try {
    parse_model_name(text);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::string snapshot_model(const Path& path) {
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

Path resolve_model_path(const std::string& path_or_name) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path_or_name, error);
  if (std::filesystem::is_directory(status) || std::filesystem::is_regular_file(status)) return path_or_name;
  require(!std::filesystem::exists(status), ErrorKind::model, "model '{}' is neither a folder nor a regular file",
          path_or_name);
  // It may be there where the system does not let anybody look.
  const bool is_absent = status.type() == std::filesystem::file_type::not_found;
  if (!is_absent || std::filesystem::is_symlink(path_or_name, error))
    fail(ErrorKind::model, "model '{}' {}: {}", path_or_name, is_absent ? "not found" : "cannot be read",
         why_not_there(path_or_name));
  return Repository(parse_model_name(path_or_name)).snapshot();
}

std::string with_revision(const std::string& path_or_name, const std::string& revision) {
  std::error_code ignored;
  require(!path_or_name.empty() && !std::filesystem::exists(path_or_name, ignored), ErrorKind::invalid_input,
          "--revision {} needs the Hugging Face name of a model: folders and files have no revisions", revision);
  const ModelName name = parse_model_name(path_or_name);
  require(name.revision.empty() || name.revision == revision, ErrorKind::invalid_input,
          "--revision {} contradicts the revision in '{}': leave one of them out", revision, path_or_name);
  const std::string full = name.owner + "/" + name.name + "@" + revision;
  parse_model_name(full);
  return full;
}

}  // namespace nostos
