// Implements the look at a terminal's environment variables.
#include "base/terminal.h"

#include <cstdlib>
#include <string_view>

namespace nostos {
namespace {

std::string_view value_of(const EnvironmentVariable& variable, const char* name) {
  const char* const value = variable(name);
  return value == nullptr ? "" : value;
}

const char* of_process(const char* name) { return std::getenv(name); }

}  // namespace

bool has_escape_sequences(const EnvironmentVariable& variable) {
  const std::string_view terminal = value_of(variable, "TERM");
  return !terminal.empty() && terminal != "dumb";
}

bool has_escape_sequences() { return has_escape_sequences(of_process); }

bool wants_colours(const EnvironmentVariable& variable) {
  return has_escape_sequences(variable) && value_of(variable, "NO_COLOR").empty();
}

bool wants_colours() { return wants_colours(of_process); }

}  // namespace nostos
