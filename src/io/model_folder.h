// Owns turning what a user calls a model into a folder: a path, or a name in the local Hugging Face cache.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nostos {

/// \return the folder of Hugging Face downloads as huggingface_hub finds it: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE,
/// else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
std::filesystem::path hugging_face_cache();

/// A model's name in the Hugging Face cache, "OWNER/NAME" or "OWNER/NAME@REVISION".
struct ModelName {
  std::string owner;
  std::string name;
  std::string revision;  ///< a branch, a tag or a commit; "" where none is named
};

/// \return the parts of `text`. \throws Error model saying what is wrong if it is no such name.
ModelName parse_model_name(std::string_view text);

/// \return whether `text` has that form.
bool is_model_name(std::string_view text);

/// \return the `owner/name` (or `name`, which some old models have) whose snapshot in a Hugging Face cache the absolute
/// path names, .../models--owner--name/snapshots/revision; empty for any other path.
std::string snapshot_model(const std::filesystem::path& path);

/// \param path_or_name an existing folder (returned as it is), or a name as parse_model_name() takes it. Without a
/// revision the cached snapshot of `main` is taken or, with a warning, the only snapshot that there is.
/// \throws Error model saying what was looked for where, what is there, and which command downloads it.
std::filesystem::path resolve_model_path(const std::string& path_or_name);

/// \return `path_or_name` with the revision, as resolve_model_path() takes it. \throws Error invalid_input if it is no
/// name (a folder has no revisions), or names another revision already; `revision` must not be empty.
std::string with_revision(const std::string& path_or_name, const std::string& revision);

}  // namespace nostos
