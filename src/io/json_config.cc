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

/// Where a value stands, for messages.
struct Place {
  const std::string& file;
  const std::string& prefix;
  std::string_view field;

  [[noreturn]] void refuse(const json& found, const std::string& wanted) const {
    fail(ErrorKind::model, "{}: field '{}{}' is {}, must be {}", file, prefix, field, describe(found), wanted);
  }
  [[noreturn]] void refuse_missing(const std::string& wanted) const {
    fail(ErrorKind::model, "{}: field '{}{}' is missing, must be {}", file, prefix, field, wanted);
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

/// \return every element of the array as `convert` gives it. \throws Error model naming the place unless all convert.
template <class Convert>
auto all_of_array(const json& value, const Place& place, const std::string& wanted, Convert convert) {
  if (!value.is_array()) place.refuse(value, wanted);
  std::vector<typename decltype(convert(value))::value_type> elements;
  elements.reserve(value.size());
  for (const json& element : value) {
    auto converted = convert(element);
    if (!converted) place.refuse(value, wanted);
    elements.push_back(std::move(*converted));
  }
  return elements;
}

std::optional<std::string> text_in(const json& value) {
  return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
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
  const Place place{name_, prefix_, field};
  const json* value = lookup(document_->value, field);
  if (value == nullptr) place.refuse_missing(range_text("an integer", min, max));
  const std::optional<int64_t> number = integer_in(*value, min, max);
  if (!number) place.refuse(*value, range_text("an integer", min, max));
  return *number;
}

uint64_t JsonConfig::unsigned_integer(std::string_view field) const {
  const Place place{name_, prefix_, field};
  const std::string wanted = fmt::format("an integer from 0 to {}", std::numeric_limits<uint64_t>::max());
  const json* value = lookup(document_->value, field);
  if (value == nullptr) place.refuse_missing(wanted);
  if (!value->is_number_unsigned()) place.refuse(*value, wanted);
  return value->get<uint64_t>();
}

int64_t JsonConfig::integer_or(std::string_view field, int64_t otherwise, int64_t min, int64_t max) const {
  return has(field) ? integer(field, min, max) : otherwise;
}

double JsonConfig::number(std::string_view field, double min, double max) const {
  const Place place{name_, prefix_, field};
  const json* value = lookup(document_->value, field);
  if (value == nullptr) place.refuse_missing(range_text("a number", min, max));
  const std::optional<double> number = number_in(*value, min, max);
  if (!number) place.refuse(*value, range_text("a number", min, max));
  return *number;
}

double JsonConfig::number_or(std::string_view field, double otherwise, double min, double max) const {
  return has(field) ? number(field, min, max) : otherwise;
}

bool JsonConfig::boolean(std::string_view field) const {
  const Place place{name_, prefix_, field};
  const json* value = lookup(document_->value, field);
  if (value == nullptr) place.refuse_missing("true or false");
  if (!value->is_boolean()) place.refuse(*value, "true or false");
  return value->get<bool>();
}

bool JsonConfig::boolean_or(std::string_view field, bool otherwise) const {
  return has(field) ? boolean(field) : otherwise;
}

std::string JsonConfig::string(std::string_view field) const {
  const Place place{name_, prefix_, field};
  const json* value = lookup(document_->value, field);
  if (value == nullptr) place.refuse_missing("a string");
  if (!value->is_string()) place.refuse(*value, "a string");
  return value->get<std::string>();
}

std::string JsonConfig::string_or(std::string_view field, std::string_view otherwise) const {
  return has(field) ? string(field) : std::string(otherwise);
}

std::vector<int64_t> JsonConfig::integers(std::string_view field, int64_t min, int64_t max) const {
  const Place place{name_, prefix_, field};
  const std::string wanted = range_text("an array of integers", min, max);
  const json* value = lookup(document_->value, field);
  if (value == nullptr) place.refuse_missing(wanted);
  return all_of_array(*value, place, wanted, [&](const json& element) { return integer_in(element, min, max); });
}

std::vector<int64_t> JsonConfig::integers_or(std::string_view field, std::vector<int64_t> otherwise, int64_t min,
                                             int64_t max) const {
  return has(field) ? integers(field, min, max) : otherwise;
}

std::vector<double> JsonConfig::numbers(std::string_view field, double min, double max) const {
  const Place place{name_, prefix_, field};
  const std::string wanted = range_text("an array of numbers", min, max);
  const json* value = lookup(document_->value, field);
  if (value == nullptr) place.refuse_missing(wanted);
  return all_of_array(*value, place, wanted, [&](const json& element) { return number_in(element, min, max); });
}

std::vector<std::string> JsonConfig::strings(std::string_view field) const {
  const Place place{name_, prefix_, field};
  const json* value = lookup(document_->value, field);
  if (value == nullptr) place.refuse_missing("an array of strings");
  return all_of_array(*value, place, "an array of strings", text_in);
}

std::vector<std::string> JsonConfig::strings_or(std::string_view field, std::vector<std::string> otherwise) const {
  return has(field) ? strings(field) : otherwise;
}

std::optional<JsonConfig> JsonConfig::object(std::string_view field) const {
  const json* value = lookup(document_->value, field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) Place{name_, prefix_, field}.refuse(*value, "an object");
  return JsonConfig(std::make_shared<Document>(Document{*value}), name_, prefix_ + std::string(field) + ".");
}

std::vector<JsonConfig> JsonConfig::objects(std::string_view field) const {
  const Place place{name_, prefix_, field};
  const json* value = lookup(document_->value, field);
  if (value == nullptr) place.refuse_missing("an array of objects");
  if (!value->is_array()) place.refuse(*value, "an array of objects");
  std::vector<JsonConfig> all;
  for (const json& element : *value) {
    if (!element.is_object()) place.refuse(element, "an array of objects");
    all.push_back(JsonConfig(std::make_shared<Document>(Document{element}), name_,
                             fmt::format("{}{}[{}].", prefix_, field, all.size())));
  }
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

void JsonConfig::require_unquantised() const {
  require(!has("quantization_config"), ErrorKind::model,
          "{}: field '{}quantization_config' is set: nostos reads weights that are not quantised", name_, prefix_);
}

std::string JsonConfig::dump() const { return document_->value.dump(2, ' ', false, json::error_handler_t::replace); }

}  // namespace nostos
