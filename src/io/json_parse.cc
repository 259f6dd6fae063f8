// Implements guarded JSON parsing.
#include "io/json_parse.h"

#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "base/json_nesting.h"

namespace nostos {

namespace {

/// Refuses an object that names a field twice. Whatever else is wrong, the parser says.
class UniqueFields final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit UniqueFields(const std::string& name) : name_(name) {}

  bool key(string_t& field) override {
    require(open_objects_.back().insert(field).second, ErrorKind::model,
            "{}: the field '{}' occurs twice in one object", name_, field);
    return true;
  }
  bool start_object(size_t) override {
    open_objects_.emplace_back();
    return true;
  }
  bool end_object() override {
    open_objects_.pop_back();
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }

 private:
  const std::string& name_;
  std::vector<std::unordered_set<std::string>> open_objects_;
};

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& name, int max_depth) {
  require(!nested_too_deep(text, max_depth), ErrorKind::model, "{}: JSON nested deeper than {} levels", name,
          max_depth);
  UniqueFields unique(name);
  nlohmann::json::sax_parse(text, &unique);
  // Without a callback: a parser with one looks at all of a container after each value in it.
  try {
    return nlohmann::json::parse(text);
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
