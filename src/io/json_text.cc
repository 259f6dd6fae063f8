// Implements JSON as text.
#include "io/json_text.h"

#include <nlohmann/json.hpp>

namespace nostos {

using nlohmann::ordered_json;

std::string json_line(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string json_pretty(const ordered_json& json) {
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace nostos
