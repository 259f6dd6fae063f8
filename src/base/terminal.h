// Owns what a terminal may be sent, as the environment says.
#pragma once

#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>

namespace nostos {

/// Looks up an environment variable. \return null if it is unset
using EnvironmentVariable = std::function<const char*(const char* name)>;

/// \return whether a terminal understands escape sequences: `TERM` says what it is, and it is not `dumb`.
bool has_escape_sequences(const EnvironmentVariable& variable = ::getenv);

/// \return whether colours may be used on a terminal: it understands them, and `NO_COLOR` is unset or empty
/// (https://no-color.org).
bool wants_colours(const EnvironmentVariable& variable = ::getenv);

/// \return `text` with '?' in the place of each control character but the ends of lines and tabs: a terminal takes
/// control characters, which names and texts of foreign files may hold, for orders.
std::string without_controls(std::string_view text);

/// \return a message as people can read it: without_controls(), and with words cut that are longer than any path, as
/// names in foreign files may be.
std::string shown_message(std::string_view text);

}  // namespace nostos
