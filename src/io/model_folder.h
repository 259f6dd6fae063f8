// Owns the way from what a user calls a model to a folder. The user gives a path, or a name in the local Hugging Face
// cache. Call it before anything opens the model.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nostos {

/// \return the folder of all that is Hugging Face's, as huggingface_hub finds it: HF_HOME, else
/// XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface.
std::filesystem::path hugging_face_home();

/// \return the folder of Hugging Face downloads as huggingface_hub finds it: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE,
/// else `hub` in hugging_face_home().
std::filesystem::path hugging_face_cache();

/// A model's name in the Hugging Face cache, "OWNER/NAME" or "OWNER/NAME@REVISION".
struct ModelName {
  std::string owner;
  std::string name;
  std::string revision;  ///< a branch, a tag or a commit; "" where none is named
};

/// \return the parts of `text`.
/// \throws Error model saying what is wrong if `text` is no such name
ModelName parse_model_name(std::string_view text);

/// \return whether `text` has the form of a ModelName.
bool is_model_name(std::string_view text);

/// \param path absolute
/// \return `owner/name`, or `name` as some old models have, of a path to a snapshot in a Hugging Face cache:
/// .../models--owner--name/snapshots/revision. Empty for any other path.
std::string snapshot_model(const std::filesystem::path& path);

/// \param path_or_name an existing folder or file, which is returned as it is, or a name that parse_model_name() takes.
/// Without a revision the cached snapshot of `main` is taken or, with a warning, the only snapshot that there is.
/// \throws Error model saying what was looked for and where, what is there, and which command downloads the model.
std::filesystem::path resolve_model_path(const std::string& path_or_name);

/// \param revision must not be empty
/// \return `path_or_name` with the revision, for resolve_model_path().
/// \throws Error invalid_input if `path_or_name` is no name (folders and files have no revisions), or names another
/// revision already
std::string with_revision(const std::string& path_or_name, const std::string& revision);

}  // namespace nostos
