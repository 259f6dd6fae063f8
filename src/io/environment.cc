// Implements the look-up of folders in the environment.
#include "io/environment.h"

#include <cstdlib>
#include <string>
#include <string_view>

namespace nostos {

std::filesystem::path path_from_environment(const char* variable) {
  const char* value = std::getenv(variable);
  if (value == nullptr) return {};
  const std::string_view text(value);
  const char* home = std::getenv("HOME");
  if (home != nullptr && (text == "~" || text.starts_with("~/")))
    return std::string(home) + std::string(text.substr(1));
  return text;
}

std::filesystem::path cache_folder() {
  if (std::getenv("NOSTOS_CACHE_DIR") != nullptr) return path_from_environment("NOSTOS_CACHE_DIR");
  if (const std::filesystem::path cache = path_from_environment("XDG_CACHE_HOME"); !cache.empty())
    return cache / "nostos";
  const std::filesystem::path home = path_from_environment("HOME");
  return home.empty() ? home : home / ".cache" / "nostos";
}

}  // namespace nostos
