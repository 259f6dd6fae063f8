// Implements checked JSON configuration files.
#include "io/json_config.h"

#include <algorithm>
#include <cmath>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "io/file.h"
#include "io/json_parse.h"

namespace nostos {

using nlohmann::json;

/// The object of one JsonConfig.
struct JsonConfig::Document {
  json value;
};

namespace {

const json* lookup(const json& object, std::string_view field) {
  const auto found = object.find(field);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

/// A field of an object that knows its place, for messages.
struct Field {
  const json& object;
  const std::string& file;
  const std::string& prefix;
  std::string_view name;

  /// \return what `convert` makes of the value. \throws Error model if there is none, or that makes nothing of it
  template <class Convert>
  auto as(const std::string& wanted, const Convert& convert) const {
    const json* const value = lookup(object, name);
    require(value != nullptr, ErrorKind::model, "{}: field '{}{}' is missing, must be {}", file, prefix, name, wanted);
    auto converted = convert(*value);
    if (!converted)
      fail(ErrorKind::model, "{}: field '{}{}' is {}, must be {}", file, prefix, name, describe(*value), wanted);
    return std::move(*converted);
  }

  /// \return what `convert` makes of each element of the array.
  template <class Convert>
  auto as_array(const std::string& wanted, const Convert& convert) const {
    using Elements = std::vector<typename decltype(convert(object))::value_type>;
    return as(wanted, [&](const json& value) -> std::optional<Elements> {
      if (!value.is_array()) return std::nullopt;
      Elements elements;
      for (const json& element : value) {
        auto converted = convert(element);
        if (!converted) return std::nullopt;
        elements.push_back(std::move(*converted));
      }
      return elements;
    });
  }
};

std::string range_text(const char* what, int64_t min, int64_t max) {
  return fmt::format("{} from {} to {}", what, min, max);
}

std::string range_text(const char* what, double min, double max) {
  if (min == JsonConfig::kLowest && max == JsonConfig::kHighest) return what;
  if (max == JsonConfig::kHighest) return fmt::format("{} of at least {}", what, min);
  if (min == JsonConfig::kLowest) return fmt::format("{} of at most {}", what, max);
  return fmt::format("{} from {} to {}", what, min, max);
}

std::optional<int64_t> integer_in(const json& value, int64_t min, int64_t max) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return std::nullopt;
  }
  const int64_t number = value.get<int64_t>();
  return number >= min && number <= max ? std::optional(number) : std::nullopt;
}

std::optional<double> number_in(const json& value, double min, double max) {
  if (!value.is_number()) return std::nullopt;
  const double number = value.get<double>();
  return std::isfinite(number) && number >= min && number <= max ? std::optional(number) : std::nullopt;
}

std::optional<std::string> text_in(const json& value) {
  return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
}

std::optional<json> object_in(const json& value) { return value.is_object() ? std::optional(value) : std::nullopt; }

std::optional<bool> boolean_in(const json& value) {
  return value.is_boolean() ? std::optional(value.get<bool>()) : std::nullopt;
}

std::optional<uint64_t> unsigned_in(const json& value) {
  return value.is_number_unsigned() ? std::optional(value.get<uint64_t>()) : std::nullopt;
}

}  // namespace

JsonConfig::JsonConfig(std::shared_ptr<const Document> document, std::string name, std::string prefix)
    : document_(std::move(document)), name_(std::move(name)), prefix_(std::move(prefix)) {}

JsonConfig JsonConfig::load(const std::filesystem::path& file) {
  return parse(read_file(file, kMaxBytes, ErrorKind::model), file.string());
}

std::optional<JsonConfig> JsonConfig::load_if_there(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(std::filesystem::symlink_status(file, ignored))) return std::nullopt;
  return load(file);
}

JsonConfig JsonConfig::parse(std::string_view text, std::string name) {
  require(text.size() <= kMaxBytes, ErrorKind::model, "{}: larger than the {} bytes allowed for a config", name,
          kMaxBytes);
  auto document = std::make_shared<Document>(Document{parse_json(text, name, kMaxDepth)});
  require(document->value.is_object(), ErrorKind::model, "{}: holds {}, must hold a JSON object", name,
          describe(document->value));
  return {std::move(document), std::move(name), ""};
}

bool JsonConfig::has(std::string_view field) const { return lookup(document_->value, field) != nullptr; }

bool JsonConfig::is_null(std::string_view field) const {
  const auto found = document_->value.find(field);
  return found != document_->value.end() && found->is_null();
}

std::vector<std::string> JsonConfig::fields() const {
  std::vector<std::string> names;
  for (const auto& [field, value] : document_->value.items()) names.push_back(field);
  return names;
}

int64_t JsonConfig::integer(std::string_view field, int64_t min, int64_t max) const {
  return Field{document_->value, name_, prefix_, field}.as(
      range_text("an integer", min, max), [&](const json& value) { return integer_in(value, min, max); });
}

uint64_t JsonConfig::unsigned_integer(std::string_view field) const {
  const std::string wanted = fmt::format("an integer from 0 to {}", std::numeric_limits<uint64_t>::max());
  return Field{document_->value, name_, prefix_, field}.as(wanted, unsigned_in);
}

int64_t JsonConfig::integer_or(std::string_view field, int64_t otherwise, int64_t min, int64_t max) const {
  return has(field) ? integer(field, min, max) : otherwise;
}

double JsonConfig::number(std::string_view field, double min, double max) const {
  return Field{document_->value, name_, prefix_, field}.as(
      range_text("a number", min, max), [&](const json& value) { return number_in(value, min, max); });
}

double JsonConfig::number_or(std::string_view field, double otherwise, double min, double max) const {
  return has(field) ? number(field, min, max) : otherwise;
}

bool JsonConfig::boolean(std::string_view field) const {
  return Field{document_->value, name_, prefix_, field}.as("true or false", boolean_in);
}

bool JsonConfig::boolean_or(std::string_view field, bool otherwise) const {
  return has(field) ? boolean(field) : otherwise;
}

std::string JsonConfig::string(std::string_view field) const {
  return Field{document_->value, name_, prefix_, field}.as("a string", text_in);
}

std::string JsonConfig::string_or(std::string_view field, std::string_view otherwise) const {
  return has(field) ? string(field) : std::string(otherwise);
}

std::vector<int64_t> JsonConfig::integers(std::string_view field, int64_t min, int64_t max) const {
  return Field{document_->value, name_, prefix_, field}.as_array(
      range_text("an array of integers", min, max), [&](const json& value) { return integer_in(value, min, max); });
}

std::vector<int64_t> JsonConfig::integers_or(std::string_view field, std::vector<int64_t> otherwise, int64_t min,
                                             int64_t max) const {
  return has(field) ? integers(field, min, max) : otherwise;
}

std::vector<double> JsonConfig::numbers(std::string_view field, double min, double max) const {
  return Field{document_->value, name_, prefix_, field}.as_array(
      range_text("an array of numbers", min, max), [&](const json& value) { return number_in(value, min, max); });
}

std::vector<std::string> JsonConfig::strings(std::string_view field) const {
  return Field{document_->value, name_, prefix_, field}.as_array("an array of strings", text_in);
}

std::vector<std::string> JsonConfig::strings_or(std::string_view field, std::vector<std::string> otherwise) const {
  return has(field) ? strings(field) : otherwise;
}

std::optional<JsonConfig> JsonConfig::object(std::string_view field) const {
  if (!has(field)) return std::nullopt;
  json value = Field{document_->value, name_, prefix_, field}.as("an object", object_in);
  return JsonConfig(std::make_shared<Document>(Document{std::move(value)}), name_, prefix_ + std::string(field) + ".");
}

std::vector<JsonConfig> JsonConfig::objects(std::string_view field) const {
  const std::vector<json> values =
      Field{document_->value, name_, prefix_, field}.as_array("an array of objects", object_in);
  std::vector<JsonConfig> all;
  for (const json& value : values)
    all.push_back(JsonConfig(std::make_shared<Document>(Document{value}), name_,
                             fmt::format("{}{}[{}].", prefix_, field, all.size())));
  return all;
}

std::string JsonConfig::class_name(std::span<const std::string_view> known) const {
  require(has("_class_name") || has("architectures"), ErrorKind::model,
          "{}: field '{}_class_name' (or 'architectures') is missing, known here: {}", name_, prefix_,
          fmt::join(known, ", "));
  const std::string_view field = has("_class_name") ? "_class_name" : "architectures";
  std::string name;
  if (field == "_class_name") {
    name = string(field);
  } else {
    const std::vector<std::string> names = strings(field);
    if (!names.empty()) name = names.front();
  }
  require(std::find(known.begin(), known.end(), name) != known.end(), ErrorKind::model,
          "{}: field '{}{}' says '{}', known here: {}", name_, prefix_, field, name, fmt::join(known, ", "));
  return name;
}

void JsonConfig::check_class(std::span<const std::string_view> known) const {
  if (has("_class_name") || has("architectures")) class_name(known);
}

void JsonConfig::refuse(std::string_view field, std::string_view what) const {
  fail(ErrorKind::model, "{}: field '{}{}' {}", name_, prefix_, field, what);
}

void JsonConfig::require_unquantised() const {
  require(!has("quantization_config"), ErrorKind::model,
          "{}: field '{}quantization_config' is set: nostos reads weights that are not quantised", name_, prefix_);
}

std::string JsonConfig::dump() const { return document_->value.dump(2, ' ', false, json::error_handler_t::replace); }

}  // namespace nostos
