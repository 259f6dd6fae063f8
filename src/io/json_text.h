// Owns how JSON becomes text: for records, answers and output, whose fields stay in the order in which they were set.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace nostos {

/// \return JSON on one line, or indented for people; invalid UTF-8 becomes U+FFFD.
std::string json_line(const nlohmann::ordered_json& json);
std::string json_pretty(const nlohmann::ordered_json& json);

}  // namespace nostos
