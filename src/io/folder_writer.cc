// Implements writing a folder under another name first.
#include "io/folder_writer.h"

#include <stdlib.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>

#include "base/error.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;

/// \return a new, empty folder beside `target`.
Path make_beside(const Path& target) {
  const Path parent = target.parent_path().empty() ? Path(".") : target.parent_path();
  std::string name = (parent / ("." + target.filename().string() + ".XXXXXX")).string();
  const bool made = ::mkdtemp(name.data()) != nullptr;
  const std::error_code error(errno, std::generic_category());
  require(made, error == std::errc::no_space_on_device ? ErrorKind::internal : ErrorKind::invalid_input,
          "cannot write '{}': {}", target.string(), error.message());
  ::chmod(name.c_str(), 0755);  // mkdtemp's are the user's alone
  return name;
}

/// \throws Error invalid_input if the folder holds anything else than `replaceable`
void require_replaceable(const Path& folder, const std::set<std::string>& replaceable) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    require(!replaceable.empty(), ErrorKind::invalid_input,
            "'{}' is not empty: name another folder, or replace it with --overwrite", folder.string());
    require(replaceable.contains(name), ErrorKind::invalid_input,
            "'{}' holds '{}', which is no part of a model: it is not replaced", folder.string(), name);
  }
  require(!error, ErrorKind::invalid_input, "cannot read '{}': {}", folder.string(), error.message());
}

}  // namespace

FolderWriter::FolderWriter(const Path& folder, const std::set<std::string>& replaceable) {
  std::error_code error;
  target_ = std::filesystem::weakly_canonical(folder, error);
  if (!target_.has_filename()) target_ = target_.parent_path();  // "NAME/", where there is no NAME yet
  require(!error && target_.has_filename(), ErrorKind::invalid_input, "cannot write the folder '{}'", folder.string());
  if (std::filesystem::exists(target_, error)) {
    require(std::filesystem::is_directory(target_, error), ErrorKind::invalid_input,
            "'{}' is there and no folder; a name that ends in .safetensors makes a single file", folder.string());
    require_replaceable(target_, replaceable);
  }
  temporary_ = make_beside(target_);
}

FolderWriter::~FolderWriter() {
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
}

void FolderWriter::commit() {
  std::error_code error;
  const auto rename = [&](const Path& from, const Path& to) {
    std::filesystem::rename(from, to, error);
    require(!error, ErrorKind::internal, "cannot write '{}': {}", target_.string(), error.message());
  };
  Path old;
  if (std::filesystem::exists(target_, error) && !std::filesystem::is_empty(target_, error)) {
    old = make_beside(target_);
    rename(target_, old);
  }
  rename(temporary_, target_);
  temporary_.clear();
  if (!old.empty()) std::filesystem::remove_all(old, error);
}

}  // namespace nostos
