// Owns parsing JSON from files that nobody vouches for. Sources of this room alone include it, because it pulls in
// nlohmann's header; other rooms use JsonConfig.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace nostos {

/// \return the value that `text` holds. \param name stands for the file in messages.
/// \throws Error model if the text is no JSON, is nested deeper than `max_depth`, or an object names a field twice.
nlohmann::json parse_json(std::string_view text, const std::string& name, int max_depth);

/// \return `value` as messages show it: compact JSON, shortened to about 60 characters.
std::string describe(const nlohmann::json& value);

}  // namespace nostos
