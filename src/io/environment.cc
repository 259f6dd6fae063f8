// Implements the look-up of folders in the environment.
#include "io/environment.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

namespace nostos {
namespace {

/// \return a variable's value, nothing if it is unset.
std::optional<std::string> variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

/// \return the home folder of the user called `name`, of the process's user for "".
std::optional<std::string> home_of(const std::string& name) {
  if (name.empty()) {
    if (std::optional<std::string> home = variable("HOME")) return home;
  }
  const passwd* entry = name.empty() ? ::getpwuid(::getuid()) : ::getpwnam(name.c_str());
  return entry == nullptr || entry->pw_dir == nullptr ? std::nullopt : std::optional<std::string>(entry->pw_dir);
}

std::string expand_user(std::string_view path) {
  if (!path.starts_with('~')) return std::string(path);
  const size_t end = std::min(path.find('/'), path.size());
  std::optional<std::string> home = home_of(std::string(path.substr(1, end - 1)));
  if (!home) return std::string(path);
  while (home->ends_with('/')) home->pop_back();
  const std::string expanded = *home + std::string(path.substr(end));
  return expanded.empty() ? "/" : expanded;
}

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

std::string expand_variables(std::string_view path) {
  std::string expanded;
  while (!path.empty()) {
    const size_t dollar = std::min(path.find('$'), path.size());
    expanded += path.substr(0, dollar);
    path.remove_prefix(dollar);
    if (path.empty()) break;
    const bool is_braced = path.substr(1).starts_with('{');
    const std::string_view rest = path.substr(is_braced ? 2 : 1);
    const size_t end =
        is_braced ? rest.find('}')
                  : static_cast<size_t>(std::find_if_not(rest.begin(), rest.end(), is_name_character) - rest.begin());
    const size_t length = end == std::string_view::npos ? 1 : end + (is_braced ? 3 : 1);  // of what is replaced
    const std::optional<std::string> value =
        end == std::string_view::npos || end == 0 ? std::nullopt : variable(std::string(rest.substr(0, end)));
    expanded += value ? std::string_view(*value) : path.substr(0, length);
    path.remove_prefix(length);
  }
  return expanded;
}

}  // namespace

std::string expand_path(std::string_view path) { return expand_variables(expand_user(path)); }

std::filesystem::path path_from_environment(const char* variable_name) {
  return expand_path(variable(variable_name).value_or(""));
}

std::filesystem::path cache_folder() {
  if (std::getenv("NOSTOS_CACHE_DIR") != nullptr) return path_from_environment("NOSTOS_CACHE_DIR");
  if (const std::filesystem::path cache = path_from_environment("XDG_CACHE_HOME"); !cache.empty())
    return cache / "nostos";
  const std::filesystem::path home = path_from_environment("HOME");
  return home.empty() ? home : home / ".cache" / "nostos";
}

}  // namespace nostos
