// Owns the folders that the environment names. Programs call it at their edge and pass the folders down.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nostos {

/// \return `path` as Python's os.path.expandvars(os.path.expanduser(path)) gives it, which huggingface_hub applies. A
/// leading "~" becomes HOME, or the home that the system has for this user. A leading "~NAME" becomes that user's home.
/// Then each $NAME and ${NAME} becomes the variable's value, once. What is unset or unknown stays as it is written.
std::string expand_path(std::string_view path);

/// \return the expanded value of an environment variable (see expand_path()), "" if unset.
std::filesystem::path path_from_environment(const char* variable);

/// \return the folder in which the program may keep what it would otherwise find out anew: NOSTOS_CACHE_DIR, else
/// XDG_CACHE_HOME/nostos, else ~/.cache/nostos. "" means that nothing is kept; NOSTOS_CACHE_DIR says so when it is set
/// but empty. The folder need not exist.
std::filesystem::path cache_folder();

}  // namespace nostos
