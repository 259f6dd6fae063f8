// Owns the folders that the environment names.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nostos {

/// \return `path` as Python's os.path.expandvars(os.path.expanduser(path)) gives it, which huggingface_hub applies: a
/// leading "~" becomes HOME or what the system has for it, a leading "~NAME" that user's home; then each $NAME and
/// ${NAME} becomes the variable's value, once. What is unset or unknown stays as it is written.
std::string expand_path(std::string_view path);

/// \return the expanded value of an environment variable (see expand_path()), "" if unset.
std::filesystem::path path_from_environment(const char* variable);

/// \return where the program may keep what it would otherwise find out anew: NOSTOS_CACHE_DIR (set but empty: nowhere),
/// else XDG_CACHE_HOME/nostos, else ~/.cache/nostos; "" for nowhere. The folder need not exist.
std::filesystem::path cache_folder();

}  // namespace nostos
