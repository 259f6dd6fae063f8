// Implements the look at a terminal's environment variables.
#include "base/terminal.h"

#include <algorithm>
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

std::string without_controls(std::string_view text) {
  std::string shown;
  shown.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {  // U+0080 to U+009F in UTF-8
      shown += '?';
      ++i;
    } else {
      shown += (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f ? '?' : text[i];
    }
  }
  return shown;
}

std::string shown_message(std::string_view text) {
  constexpr size_t kMost = 5000, kShown = 200;
  std::string shown = without_controls(text);
  for (size_t begin = 0; begin < shown.size();) {
    const size_t end = std::min(shown.find_first_of(" \n\t", begin), shown.size());
    if (end - begin > kMost) shown.replace(begin, end - begin, shown.substr(begin, kShown) + "...");
    begin = std::min(shown.find_first_of(" \n\t", begin), shown.size()) + 1;
  }
  return shown;
}

}  // namespace nostos
