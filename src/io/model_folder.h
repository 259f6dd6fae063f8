// Owns turning what a user calls a model into a folder: a path, or a name in the local Hugging Face cache.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nostos {

/// \return the folder of Hugging Face downloads as huggingface_hub finds it: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE,
/// else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
std::filesystem::path hugging_face_cache();

/// \return whether `text` has the form of a Hugging Face name, `owner/name`.
bool is_model_name(std::string_view text);

/// \return the `owner/name` (or `name`, which some old models have) whose snapshot in a Hugging Face cache the absolute
/// path names, .../models--owner--name/snapshots/revision; empty for any other path.
std::string snapshot_model(const std::filesystem::path& path);

/// \param path_or_name an existing folder (returned as it is), or a Hugging Face name `owner/name`, for which the
/// cached snapshot of revision `main` is returned.
/// \throws Error model saying what was looked for where and which command downloads it.
std::filesystem::path resolve_model_path(const std::string& path_or_name);

}  // namespace nostos
