// Owns the folders that the environment names.
#pragma once

#include <filesystem>

namespace nostos {

/// \return the value of an environment variable with a leading "~" expanded, "" if unset.
std::filesystem::path path_from_environment(const char* variable);

/// \return where the program may keep what it would otherwise find out anew: NOSTOS_CACHE_DIR (set but empty: nowhere),
/// else XDG_CACHE_HOME/nostos, else ~/.cache/nostos; "" for nowhere. The folder need not exist.
std::filesystem::path cache_folder();

}  // namespace nostos
