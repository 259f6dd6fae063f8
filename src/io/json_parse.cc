// Implements guarded JSON parsing.
#include "io/json_parse.h"

#include <set>
#include <vector>

#include "base/error.h"

namespace nostos {

nlohmann::json parse_json(std::string_view text, const std::string& name, int max_depth) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string, std::less<>>> open_objects;
  const auto watch = [&](int depth, Event event, nlohmann::json& value) {
    if (event == Event::object_start || event == Event::array_start) {
      require(depth < max_depth, ErrorKind::model, "{}: JSON nested deeper than {} levels", name, max_depth);
    }
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key) {
      const auto& field = value.get_ref<const std::string&>();
      require(open_objects.back().insert(field).second, ErrorKind::model,
              "{}: the field '{}' occurs twice in one object", name, field);
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    // nlohmann prefixes "[json.exception.parse_error.101] ".
    const std::string_view what = error.what();
    const size_t start = what.find("] ");
    fail(ErrorKind::model, "{}: not valid JSON: {}", name,
         start == std::string_view::npos ? what : what.substr(start + 2));
  }
}

std::string describe(const nlohmann::json& value) {
  constexpr size_t kMostBytes = 60;
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kMostBytes) text = text.substr(0, kMostBytes) + "...(cut)";
  return text;
}

}  // namespace nostos
