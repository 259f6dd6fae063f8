// Implements the look at a terminal's environment variables.
#include "base/terminal.h"

#include <string_view>

namespace nostos {
namespace {

std::string_view value_of(const EnvironmentVariable& variable, const char* name) {
  const char* const value = variable(name);
  return value == nullptr ? "" : value;
}

}  // namespace

bool has_escape_sequences(const EnvironmentVariable& variable) {
  const std::string_view terminal = value_of(variable, "TERM");
  return !terminal.empty() && terminal != "dumb";
}

bool wants_colours(const EnvironmentVariable& variable) {
  return has_escape_sequences(variable) && value_of(variable, "NO_COLOR").empty();
}

}  // namespace nostos
