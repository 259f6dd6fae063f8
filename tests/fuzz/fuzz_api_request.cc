// Fuzzes the setters of nostos.h: any names and values, in any order; what they make is refused, or has a record.
#include <nostos.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api/handles.h"
#include "base/error.h"
#include "pipeline/record.h"
#include "pipeline/request.h"

namespace {

using Options = std::unique_ptr<nostos_options, decltype(&nostos_options_free)>;
using Request = std::unique_ptr<nostos_request, decltype(&nostos_request_free)>;

/// \return the text up to the next `end`, which is taken off.
std::string_view next(std::string_view& text, char end) {
  const std::string_view found = text.substr(0, text.find(end));
  text.remove_prefix(std::min(found.size() + 1, text.size()));
  return found;
}

template <class Number>
Number number(std::string_view text) {
  Number value{};
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

/// Checks that a call says what is wrong if it fails.
template <class Call>
void checked(const Call& call) {
  nostos_error* error = nullptr;
  const nostos_status status = call(&error);
  nostos::check((status == NOSTOS_OK) == (error == nullptr), "a failure has an error, and a success has none");
  nostos::check(nostos_error_status(error) == status, "the error has the status");
  nostos::check(status == NOSTOS_OK || *nostos_error_message(error) != '\0', "an error has a message");
  nostos_error_free(error);
}

/// Calls the setter that a line names: its kind, a field, a value.
void set(nostos_options* options, nostos_request* request, std::string_view line) {
  const std::string_view kind = next(line, ' ');
  const std::string field(next(line, ' ')), text(line);
  const auto whole = number<int64_t>(text);
  const auto real = number<double>(text);
  if (kind == "option") {
    checked([&](auto error) { return nostos_options_set_text(options, field.c_str(), text.c_str(), error); });
    checked([&](auto error) { return nostos_options_set_integer(options, field.c_str(), whole, error); });
    checked([&](auto error) { return nostos_options_set_real(options, field.c_str(), real, error); });
  } else if (kind == "text") {
    checked([&](auto error) { return nostos_request_set_text(request, field.c_str(), text.c_str(), error); });
  } else if (kind == "integer") {
    checked([&](auto error) { return nostos_request_set_integer(request, field.c_str(), whole, error); });
  } else if (kind == "real") {
    checked([&](auto error) { return nostos_request_set_real(request, field.c_str(), real, error); });
  } else if (kind == "reals") {
    std::vector<double> values;
    while (!line.empty()) values.push_back(number<double>(next(line, ' ')));
    checked([&](auto error) {
      return nostos_request_set_reals(request, field.c_str(), values.data(), values.size(), error);
    });
  } else if (kind == "image") {
    const auto height = number<int64_t>(next(line, ' ')), width = number<int64_t>(line);
    const std::vector<uint8_t> pixels(64 * 64 * 3, 7);
    const bool fits = height <= 64 && width <= 64;  // larger ones only where their size alone refuses them
    if (!fits && height > 0 && height <= 16384 && width > 0 && width <= 16384) return;
    checked([&](auto error) {
      return nostos_request_add_image(request, field.c_str(), {pixels.data(), height, width}, error);
    });
  } else if (kind == "lora") {
    checked([&](auto error) { return nostos_request_add_lora(request, field.c_str(), real, error); });
  } else if (kind == "seed") {
    nostos_request_set_seed(request, number<uint64_t>(field));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  const Options options(nostos_options_new(), nostos_options_free);
  const Request request(nostos_request_new(), nostos_request_free);
  while (!text.empty()) set(options.get(), request.get(), next(text, '\n'));
  request->latents.clear();  // a file of this machine
  try {
    const nostos::DrawingRecord record{
        .request = nostos::resolve(nostos::api::asked_of(*request), nostos::any_model_limits()).request,
        .model_path = options->model_path};
    const std::string json = nostos::to_json(record);
    nostos::check(nostos::to_json(nostos::parse_drawing_record(json, "the record")) == json,
                  "a record is read as it was written");
  } catch (const nostos::Error& error) {
    if (error.kind() != nostos::ErrorKind::invalid_input) throw;
  }
  return 0;
}
