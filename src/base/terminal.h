// Owns what a terminal may be sent, as the environment says.
#pragma once

#include <cstdlib>
#include <functional>

namespace nostos {

/// Looks up an environment variable. \return null if it is unset
using EnvironmentVariable = std::function<const char*(const char* name)>;

/// \return whether a terminal understands escape sequences: `TERM` says what it is, and it is not `dumb`.
bool has_escape_sequences(const EnvironmentVariable& variable = ::getenv);

/// \return whether colours may be used on a terminal: it understands them, and `NO_COLOR` is unset or empty
/// (https://no-color.org).
bool wants_colours(const EnvironmentVariable& variable = ::getenv);

}  // namespace nostos
