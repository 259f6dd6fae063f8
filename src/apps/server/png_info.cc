// Implements the reading of WebUI text, by the rules of A1111's parse_generation_parameters.
#include "apps/server/png_info.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nostos::server {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpace);
  return first == std::string_view::npos ? std::string_view()
                                         : text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

/// \return the value that `rest` begins with, in quotes where it holds commas, and takes it off.
std::string take_value(std::string_view& rest) {
  if (rest.starts_with('"')) {
    size_t end = 1;
    while (end < rest.size() && rest[end] != '"') end += rest[end] == '\\' ? 2 : 1;
    if (end < rest.size()) {
      const std::string_view quoted = rest.substr(0, end + 1);
      rest.remove_prefix(end + 1);
      const nlohmann::json text = nlohmann::json::parse(quoted, nullptr, false);
      return text.is_string() ? text.get<std::string>() : std::string(quoted);
    }
  }
  const size_t comma = std::min(rest.find(','), rest.size());
  const std::string_view value = trimmed(rest.substr(0, comma));
  rest.remove_prefix(comma);
  return std::string(value);
}

/// \return the settings of a line such as "Steps: 9, Size: 64x64", or none where there are fewer than three.
std::vector<std::pair<std::string, std::string>> settings_of(std::string_view line) {
  std::vector<std::pair<std::string, std::string>> settings;
  for (std::string_view rest = trimmed(line); !rest.empty();) {
    const size_t colon = rest.find(':');
    if (colon == std::string_view::npos) break;
    const std::string key(trimmed(rest.substr(0, colon)));
    rest = trimmed(rest.substr(colon + 1));
    settings.emplace_back(key, take_value(rest));
    rest.remove_prefix(std::min(rest.find_first_not_of(", "), rest.size()));
  }
  if (settings.size() < 3) settings.clear();
  return settings;
}

/// \return the numbers of a value such as "64x48".
std::optional<std::pair<std::string, std::string>> size_of(const std::string& value) {
  const size_t cross = value.find('x');
  const auto is_number = [](std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
  };
  if (cross == std::string::npos || !is_number(std::string_view(value).substr(0, cross)) ||
      !is_number(std::string_view(value).substr(cross + 1)))
    return std::nullopt;
  return std::pair(value.substr(0, cross), value.substr(cross + 1));
}

}  // namespace

nlohmann::ordered_json webui_settings(std::string_view text) {
  constexpr std::string_view kNegative = "Negative prompt:";
  text = trimmed(text);
  const size_t last_break = text.rfind('\n');
  const size_t last_line = last_break == std::string_view::npos ? 0 : last_break + 1;
  const auto settings = settings_of(text.substr(last_line));
  if (!settings.empty()) text = text.substr(0, last_line);

  std::string prompts[2];
  size_t which = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.starts_with(kNegative)) {
      which = 1;
      line = trimmed(line.substr(kNegative.size()));
    }
    prompts[which] += (prompts[which].empty() ? "" : "\n") + std::string(line);
  }
  nlohmann::ordered_json found{{"Prompt", prompts[0]}, {"Negative prompt", prompts[1]}};
  for (const auto& [key, value] : settings) {
    if (const auto size = size_of(value)) {
      found[key + "-1"] = size->first;
      found[key + "-2"] = size->second;
    } else {
      found[key] = value;
    }
  }
  return found;
}

}  // namespace nostos::server
