// Implements the reading of what a drawing follows.
#include "apps/server/control_fields.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string>
#include <string_view>

#include "apps/server/api_error.h"
#include "base/error.h"

namespace nostos::server {
namespace {

using nlohmann::json;

/// \return the preprocessor of that name. \throws ApiError 400
Preprocessor preprocessor_of(const std::string& given) {
  try {
    return parse_preprocessor(given);
  } catch (const Error&) {
    refuse_field("preprocessor", "out_of_range", "preprocessor is unknown; use none, canny, gray or tile");
  }
}

/// Runs `read`, which reads fields of an object in a body. \param object its name in the body
/// \return what `read` returns \throws ApiError 400 naming a field as that of the object
template <class Read>
auto read_inside(const std::string& object, const Read& read) {
  try {
    return read();
  } catch (const ApiError& error) {
    throw ApiError(error.status, error.type, object + "." + error.what(), object + "." + error.param, error.code);
  }
}

void require_control(const std::string& field, const ModelLimits& limits) {
  if (limits.control == ControlSupport::loaded) return;
  refuse_field(field, "unsupported", "{} is given, but {}", field,
               limits.control == ControlSupport::none
                   ? "there are no control networks for this model"
                   : "this server has no control network: it was started without --controlnet");
}

/// \return what a preprocessor of A1111's ControlNet is called here. \throws ApiError 400
Preprocessor a1111_preprocessor(std::string module) {
  std::ranges::transform(module, module.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (module == "none" || module.empty()) return Preprocessor::none;
  if (module == "canny") return Preprocessor::canny;
  if (module == "tile_resample" || module == "tile") return Preprocessor::tile;
  refuse_field(
      "module", "unsupported",
      "module is {}: pictures are made into edges (canny) or colours without detail (tile_resample) here; send "
      "others as they are to be followed, with the module none",
      module.substr(0, 60));
}

/// Reads a unit of A1111's ControlNet.
void read_control_unit(const Fields& unit, const OrderLimits& limits, SentPictures& pictures,
                       GenerationRequest& request) {
  Control& control = request.control.emplace();
  control.scale = unit.number("weight", 0, kMaxControlScale).value_or(1);
  control.start = unit.number("guidance_start", 0, 1).value_or(control.start);
  control.end = unit.number("guidance_end", 0, 1).value_or(control.end);
  control.preprocessor = a1111_preprocessor(unit.string("module", 100).value_or("none"));
  const json* image = &unit.value("image");
  if (image->is_null()) image = &unit.value("input_image");
  if (image->is_object() && image->contains("image")) image = &(*image)["image"];
  if (image->is_null() && !pictures.images.empty()) {  // as there: img2img follows what it begins with
    pictures.control = pictures.images.front();
    return;
  }
  if (image->is_null()) refuse_field("image", "missing", "image is missing: send the picture that is to be followed");
  pictures.control = upload_of(*image, "image", limits.find_picture);
}

}  // namespace

void read_control(const json& control, const OrderLimits& limits, SentPictures& pictures, GenerationRequest& request) {
  if (control.is_null()) return;
  require_control("control", limits.model);
  if (!control.is_object())
    refuse_field("control", "invalid_type", "control must be an object with image, scale, start, end and preprocessor");
  const Fields fields(control);
  read_inside("control", [&] {
    static const std::set<std::string_view> kKnown{"image", "scale", "start", "end", "preprocessor"};
    for (const auto& [field, value] : control.items())
      if (!kKnown.contains(field)) refuse_field(field, "unknown_field", "{} is unknown", field.substr(0, 60));
    Control& made = request.control.emplace();
    made.scale = fields.number("scale", 0, kMaxControlScale).value_or(made.scale);
    made.start = fields.number("start", 0, 1).value_or(made.start);
    made.end = fields.number("end", 0, 1).value_or(made.end);
    if (const auto name = fields.string("preprocessor", 100)) made.preprocessor = preprocessor_of(*name);
    if (!fields.value("image").is_null())
      pictures.control = upload_of(fields.value("image"), "image", limits.find_picture);
  });
}

void read_a1111_control(const Fields& fields, const OrderLimits& limits, SentPictures& pictures,
                        GenerationRequest& request) {
  const json& scripts = fields.value("alwayson_scripts");
  if (!scripts.is_object()) return;
  for (const auto& [name, script] : scripts.items()) {
    std::string folded = name;
    std::ranges::transform(folded, folded.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (folded != "controlnet" || !script.is_object() || !script.contains("args") || !script["args"].is_array())
      continue;
    for (size_t i = 0; i < script["args"].size(); ++i) {
      const json& args = script["args"][i];
      const std::string field = fmt::format("alwayson_scripts.{}.args[{}]", name.substr(0, 20), i);
      if (!args.is_object()) refuse_field(field, "invalid_type", "{} must be an object", field);
      const Fields unit(args, Fields::Reading::lenient);
      if (!read_inside(field, [&] { return unit.boolean("enabled"); }).value_or(true)) continue;
      require_control(field, limits.model);
      if (request.control)
        refuse_field(field, "unsupported", "{} is one too many: a drawing follows one picture", field);
      read_inside(field, [&] { read_control_unit(unit, limits, pictures, request); });
    }
  }
}

}  // namespace nostos::server
