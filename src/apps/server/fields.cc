// Implements the reading of request bodies.
#include "apps/server/fields.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>

#include "apps/server/api_error.h"
#include "apps/server/control_fields.h"
#include "apps/server/identifiers.h"
#include "apps/server/lora_folder.h"
#include "base/error.h"
#include "base/json_nesting.h"
#include "io/utf8.h"

namespace nostos::server {
namespace {

using nlohmann::json;

/// Of the jobs' and OpenAI's APIs.
const std::set<std::string_view> kKnownFields{"prompt",
                                              "negative_prompt",
                                              "image",
                                              "mask",
                                              "strength",
                                              "mask_blur",
                                              "image_fit",
                                              "control",
                                              "loras",
                                              "width",
                                              "height",
                                              "size",
                                              "num_inference_steps",
                                              "guidance_scale",
                                              "cfg_normalization",
                                              "cfg_truncation",
                                              "seed",
                                              "n",
                                              "output_format",
                                              "model",
                                              "output_compression",
                                              "response_format",
                                              "user",
                                              "quality",
                                              "background",
                                              "style",
                                              "moderation",
                                              "max_sequence_length"};
/// Of OpenAI's answers.
const std::set<std::string_view> kAnswerFields{"stream", "partial_images"};

/// \return `value` as messages show it.
std::string shown(const json& value) {
  if (value.is_array()) return "an array";
  if (value.is_object()) return "an object";
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

/// \return the number that the whole of `text` is, or nothing.
template <class Number>
std::optional<json> parsed_as(std::string_view text) {
  Number number{};
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && stop == text.data() + text.size() ? std::optional<json>(number) : std::nullopt;
}

/// \return the number that a text in quotes is, as Python reads it; anything else as it is.
json unquoted(const json& value) {
  if (!value.is_string()) return value;
  constexpr std::string_view kSpace = " \t\r\n";
  std::string_view text = value.get_ref<const std::string&>();
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  text = text.substr(0, text.find_last_not_of(kSpace) + 1);
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  if (text.find_first_not_of("-.0123456789eE") != std::string_view::npos) return value;  // such as infinity
  if (auto number = parsed_as<uint64_t>(text)) return *number;
  if (auto number = parsed_as<int64_t>(text)) return *number;
  return parsed_as<double>(text).value_or(value);
}

/// \return whether a double is a whole number and stands for no other one.
bool is_exact_whole(double real) { return std::abs(real) < 0x1p53 && real == std::floor(real); }

/// \return what pydantic takes the value for, or nothing.
std::optional<bool> boolean_word(const json& value) {
  static const std::set<std::string> kTrue{"1", "on", "t", "true", "y", "yes"},
      kFalse{"0", "off", "f", "false", "n", "no"};
  std::string word = value.is_string() ? value.get<std::string>() : value.dump();
  std::ranges::transform(word, word.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (kTrue.contains(word)) return true;
  return kFalse.contains(word) ? std::optional(false) : std::nullopt;
}

/// \return the sides that a size such as "1024x768" names. \throws ApiError 400
ImageSize sides_of(const std::string& size) {
  int64_t sides[2] = {0, 0};
  const char* const end = size.data() + size.size();
  const auto width = std::from_chars(size.data(), end, sides[0]);
  const bool has_cross = width.ec == std::errc() && width.ptr != end && *width.ptr == 'x';
  const auto height = std::from_chars(has_cross ? width.ptr + 1 : end, end, sides[1]);
  if (!has_cross || height.ec != std::errc() || height.ptr != end)
    refuse_field("size", "invalid_type", "size is \"{}\"; use WIDTHxHEIGHT in pixels, such as 1024x768, or auto", size);
  return {.height = sides[1], .width = sides[0]};
}

/// Reads `size`, and `width` and `height`, which count in its place where they are given.
void read_size(const Fields& fields, int64_t max_side, GenerationRequest& request) {
  request.width = fields.integer("width", 1, max_side);
  request.height = fields.integer("height", 1, max_side);
  const std::string size = fields.string("size", 100).value_or("auto");
  if (size == "auto") return;
  const ImageSize sides = sides_of(size);
  const auto take = [&](int64_t side, std::optional<int64_t>& into) {
    if (into) return;
    if (side < 1 || side > max_side)
      refuse_field("size", "out_of_range", "size is \"{}\"; this model draws 1 to {} pixels a side", size, max_side);
    into = side;
  };
  take(sides.width, request.width);
  take(sides.height, request.height);
}

/// Has the model's own rules, and this server's, fill in and check the rest. \param guidance_field its name in the body
DrawingOrder resolved(DrawingOrder order, const OrderLimits& limits, const char* guidance_field,
                      ClientDefaults client_defaults) {
  GenerationRequest& request = order.record.request;
  AdaptedRequest adapted = adapt_settings(std::move(request), limits.model, client_defaults);
  order.changes = std::move(adapted.changes);
  request = resolve_or_refuse(adapted.request, limits.model).request;
  const int64_t width = *request.width, height = *request.height;
  if (width * height > limits.max_pixels)
    refuse_field("size", "out_of_range", "{}x{} is {} pixels; this server draws at most {}", width, height,
                 width * height, limits.max_pixels);
  if (limits.wants_guidance && !guides(limits.model.guidance, *request.guidance_scale))
    refuse_field(guidance_field, "out_of_range",
                 "{} must switch guidance on: this server's ranks draw its two halves (--cfg-parallel-degree 2)",
                 guidance_field);
  order.record.guidance = limits.model.guidance;
  order.record.model_path = limits.model_path;
  order.record.parts = limits.parts;
  order.record.variant = limits.variant;
  order.record.model_name = limits.model_name;
  order.record.precision = limits.precision;
  order.record.text_precision = limits.text_precision;
  order.record.attention_precision = limits.attention_precision;
  return order;
}

std::string required_prompt(const Fields& fields) {
  const auto prompt = fields.string("prompt", kMaxPromptBytes);
  if (!prompt) refuse_field("prompt", "missing", "prompt is missing: say what to draw");
  return *prompt;
}

/// \return JSON of any kind. \param field that it is of, for messages; empty: it is the body \throws ApiError 400
json parse_limited(std::string_view text, const std::string& field) {
  const std::string what = field.empty() ? "the body" : field;
  // A parser with a callback looks at all of a container after each value in it.
  if (nested_too_deep(text, kMaxJsonDepth))
    refuse_field(field, "too_deep", "{} is JSON nested deeper than {} levels", what, kMaxJsonDepth);
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    std::string_view reason = error.what();
    if (const size_t start = reason.find("] "); start != std::string_view::npos) reason.remove_prefix(start + 2);
    // It may quote much of the text, and bytes that are no UTF-8, which the writer of the answer replaces.
    refuse_field(field, "invalid_json", "{} is not valid JSON: {}", what, reason.substr(0, 200));
  }
}

/// \return the adapters that a client wishes for. \throws ApiError 400
std::vector<AdapterUse> adapters_of(const std::vector<LoraWish>& wishes, const OrderLimits& limits) {
  if (wishes.empty()) return {};
  if (limits.loras == nullptr)
    refuse_field("loras", "unsupported", "loras is given, but this server has none: it was started without --lora-dir");
  return limits.loras->find(wishes);
}

/// Reads what says how a drawing begins with a picture. \param has_mask whether the request has one
void read_image_use(const Fields& fields, bool has_mask, GenerationRequest& request) {
  request.strength = fields.number("strength", 0, 1);
  const double blur = fields.number("mask_blur", 0, kMaxMaskBlur).value_or(0);
  if (has_mask) request.mask.emplace().blur = blur;
  if (!has_mask && blur > 0) refuse_field("mask_blur", "missing", "mask_blur is given, but no mask");
  const auto fit = fields.string("image_fit", 100);
  if (!fit) return;
  try {
    request.image_fit = parse_image_fit(*fit);
  } catch (const Error&) {
    refuse_field("image_fit", "out_of_range", "image_fit is unknown; use crop, pad or stretch");
  }
}

/// \return the order in the fields that all bodies of one kind or another share.
DrawingOrder order_of(const Fields& fields, SentPictures pictures, const OrderLimits& limits,
                      ClientDefaults client_defaults) {
  DrawingOrder order;
  GenerationRequest& request = order.record.request;
  request.prompt = required_prompt(fields);
  request.negative_prompt = fields.string("negative_prompt", kMaxPromptBytes).value_or("");
  read_size(fields, limits.model.max_side, request);
  request.num_inference_steps = fields.integer("num_inference_steps", 1, kMaxSteps);
  request.guidance_scale = fields.number("guidance_scale", 0, kMaxGuidance);
  request.cfg_normalization = fields.number("cfg_normalization", 0, kMaxGuidance).value_or(request.cfg_normalization);
  request.cfg_truncation = fields.number("cfg_truncation", 0, 1).value_or(request.cfg_truncation);
  const auto seed = fields.seed("seed");
  request.seed = seed ? *seed : random_seed();
  request.max_sequence_length = fields.integer("max_sequence_length", 1, limits.model.max_sequence_length);
  request.num_outputs = fields.integer("n", 1, kMaxPictures).value_or(1);
  if (const auto format = fields.string("output_format", 100)) {
    const auto known = parse_format(*format);
    if (!known) refuse_field("output_format", "out_of_range", "output_format is unknown; use png, jpeg or webp");
    order.format = *known;
  }
  order.quality = static_cast<int>(fields.integer("output_compression", 0, 100).value_or(order.quality));
  order.quality = std::max(order.quality, 1);
  if (fields.string("background", 100).value_or("auto") == "transparent")
    refuse_field("background", "unsupported", "background transparent cannot be drawn; use opaque or auto");
  read_image_use(fields, pictures.mask.has_value(), request);
  read_control(fields.json_value("control"), limits, pictures, request);
  // Last, for these are what costs time.
  request.adapters = adapters_of(parse_loras(fields.json_value("loras")), limits);
  take_pictures(pictures, limits.model, order);
  return resolved(std::move(order), limits, "guidance_scale", client_defaults);
}

/// \return the same of an order in A1111's words.
DrawingOrder a1111_resolved(DrawingOrder order, const OrderLimits& limits) {
  DrawingOrder found = resolved(std::move(order), limits, "cfg_scale", limits.client_defaults);
  for (ChangedSetting& change : found.changes) change = in_a1111_words(change, limits.model.guidance);
  return found;
}

/// \return the order in a body of A1111's, without its pictures.
DrawingOrder a1111_order_of(const Fields& fields, const OrderLimits& limits) {
  const int64_t max_side = limits.model.max_side;
  DrawingOrder order;
  GenerationRequest& request = order.record.request;
  request.prompt = fields.string("prompt", kMaxPromptBytes).value_or("");
  request.negative_prompt = fields.string("negative_prompt", kMaxPromptBytes).value_or("");
  request.width = fields.integer("width", 1, max_side);
  request.height = fields.integer("height", 1, max_side);
  request.num_inference_steps = fields.integer("steps", 1, kMaxSteps);
  const GuidanceForm form = limits.model.guidance;
  if (const auto scale = fields.number("cfg_scale", 0, kMaxGuidance + 1))
    request.guidance_scale = guidance_scale_of(*scale, form);
  const auto seed = fields.seed("seed");
  request.seed = seed ? *seed : random_seed();
  request.num_outputs =
      fields.integer("batch_size", 1, kMaxPictures).value_or(1) * fields.integer("n_iter", 1, kMaxPictures).value_or(1);
  if (request.num_outputs > kMaxPictures)
    refuse_field("n_iter", "out_of_range", "batch_size times n_iter is {}; at most {} pictures are drawn",
                 request.num_outputs, kMaxPictures);
  if (limits.loras != nullptr) {
    TaggedPrompt tagged = parse_lora_tags(request.prompt);
    request.prompt = std::move(tagged.prompt);
    request.adapters = adapters_of(tagged.wishes, limits);
  }
  return order;
}

/// Reads what img2img has beside the fields of txt2img. \return its pictures
SentPictures a1111_pictures(const Fields& fields, const OrderLimits& limits, GenerationRequest& request) {
  constexpr double kUsualStrength = 0.75, kUsualBlur = 4;  // A1111's
  constexpr std::array kFits{ImageFit::stretch, ImageFit::crop, ImageFit::pad};
  const json &images = fields.value("init_images"), &mask = fields.value("mask");
  if (!images.is_array() || images.empty())
    refuse_field("init_images", "missing",
                 "init_images is missing: send the picture that the drawing begins with in base64, in a list");
  if (images.size() > 1)
    refuse_field("init_images", "out_of_range", "init_images has {} pictures: a drawing begins with one",
                 images.size());
  request.strength = fields.number("denoising_strength", 0, 1).value_or(kUsualStrength);
  const int64_t resize_mode = fields.integer("resize_mode", 0, 3).value_or(0);
  if (resize_mode >= std::ssize(kFits))
    refuse_field("resize_mode", "unsupported", "resize_mode is 3, which resizes latents: use 0, 1 or 2");
  request.image_fit = kFits.at(static_cast<size_t>(resize_mode));
  SentPictures pictures{.mask_rule = MaskRule::opaque};
  pictures.images.push_back(upload_of(images.front(), "init_images[0]", limits.find_picture));
  if (mask.is_null() || mask == "") return pictures;
  if (fields.boolean("inpaint_full_res").value_or(false))
    refuse_field("inpaint_full_res", "unsupported",
                 "inpaint_full_res is true, but the part around a mask is not drawn alone here: send false for a "
                 "drawing of the whole picture");
  pictures.inverts_mask = fields.boolean("inpainting_mask_invert").value_or(false);
  request.mask.emplace().blur = fields.number("mask_blur", 0, kMaxMaskBlur).value_or(kUsualBlur);
  pictures.mask = upload_of(mask, "mask", limits.find_picture);
  return pictures;
}

}  // namespace

json parse_body(std::string_view body) {
  json parsed = parse_limited(body, "");
  if (!parsed.is_object()) refuse_field("", "invalid_json", "the body must be a JSON object, not {}", shown(parsed));
  return parsed;
}

const json* Fields::find(const char* field) const {
  const auto found = object_.find(field);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

const json& Fields::value(const char* field) const {
  static const json kNull;
  const json* const found = find(field);
  return found == nullptr ? kNull : *found;
}

json Fields::json_value(const char* field) const {
  const json& given = value(field);
  return is_lenient_ && given.is_string() ? parse_limited(given.get_ref<const std::string&>(), field) : given;
}

std::optional<std::string> Fields::string(const char* field, size_t max_bytes) const {
  const json* value = find(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse_field(field, "invalid_type", "{} is {}; it must be a string", field, shown(*value));
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes)
    refuse_field(field, "too_long", "{} has {} bytes; at most {} are taken", field, text.size(), max_bytes);
  return text;
}

std::optional<int64_t> Fields::integer(const char* field, int64_t min, int64_t max) const {
  const json* given = find(field);
  if (given == nullptr) return std::nullopt;
  const json value = is_lenient_ ? unquoted(*given) : *given;
  std::optional<int64_t> number;
  if (value.is_number_unsigned()) {
    const auto wide = value.get<uint64_t>();
    if (wide <= static_cast<uint64_t>(INT64_MAX)) number = static_cast<int64_t>(wide);
  } else if (value.is_number_integer()) {
    number = value.get<int64_t>();
  } else if (value.is_number_float()) {
    // Clients in JavaScript and Lua write whole numbers as 20.0.
    const auto real = value.get<double>();
    if (is_exact_whole(real)) number = static_cast<int64_t>(real);
  } else {
    refuse_field(field, "invalid_type", "{} is {}; it must be an integer from {} to {}", field, shown(*given), min,
                 max);
  }
  if (!number || *number < min || *number > max)
    refuse_field(field, "out_of_range", "{} is {}; it must be an integer from {} to {}", field, shown(*given), min,
                 max);
  return number;
}

std::optional<uint64_t> Fields::seed(const char* field) const {
  const json* given = find(field);
  if (given == nullptr) return std::nullopt;
  const json value = unquoted(*given);
  const double real = value.is_number_float() ? value.get<double>() : 0.5;
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  if (value == -1) return std::nullopt;
  if (real >= 0 && is_exact_whole(real)) return static_cast<uint64_t>(real);
  refuse_field(field, value.is_number() ? "out_of_range" : "invalid_type",
               "{} is {}; it must be an integer from 0 to {}, or -1 for a random one", field, shown(*given),
               std::numeric_limits<uint64_t>::max());
}

std::optional<double> Fields::number(const char* field, double min, double max) const {
  const json* given = find(field);
  if (given == nullptr) return std::nullopt;
  const json value = is_lenient_ ? unquoted(*given) : *given;
  if (!value.is_number())
    refuse_field(field, "invalid_type", "{} is {}; it must be a number from {} to {}", field, shown(*given), min, max);
  const auto number = value.get<double>();
  if (!(number >= min && number <= max))
    refuse_field(field, "out_of_range", "{} is {}; it must be a number from {} to {}", field, shown(*given), min, max);
  return number;
}

std::optional<bool> Fields::boolean(const char* field) const {
  const json* value = find(field);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  if (is_lenient_) {
    if (const auto meant = boolean_word(*value)) return meant;
  }
  refuse_field(field, "invalid_type", "{} is {}; it must be true or false", field, shown(*value));
}

void Fields::refuse_others(const std::set<std::string_view>& known) const {
  for (const auto& [field, value] : object_.items()) {
    if (!known.contains(field))
      refuse_field(field, "unknown_field", "the field {} is unknown; docs/api.md lists those that are known",
                   shown(field));
  }
}

DrawingOrder parse_order(const json& body, const OrderLimits& limits, bool strict) {
  const Fields fields(body);
  if (strict) fields.refuse_others(kKnownFields);
  const json &image = fields.value("image"), &mask = fields.value("mask");
  // Counted before a byte of any is decoded.
  GenerationRequest use;
  read_image_use(fields, !mask.is_null(), use);
  check_count(image.is_array() ? image.size() : image.is_null() ? 0 : 1, use, limits.model);
  SentPictures pictures{.images = uploads_of(image, limits.find_picture)};
  if (!mask.is_null()) pictures.mask = upload_of(mask, "mask", limits.find_picture);
  return order_of(fields, std::move(pictures), limits, strict ? ClientDefaults::keep : limits.client_defaults);
}

FormOrder parse_form_order(const std::vector<FormPart>& parts, const OrderLimits& limits) {
  FormOrder form{.order = {}, .fields = json::object()};
  SentPictures pictures{.mask_rule = MaskRule::transparent};
  for (const FormPart& part : parts) {
    const bool is_mask = part.name == "mask";
    if (is_mask || part.name == "image" || part.name == "image[]") {
      const char* const field = is_mask ? "mask" : "image";
      if (!part.is_file) refuse_field(field, "invalid_type", "{} must be a file", field);
      if (is_mask && pictures.mask) refuse_field("mask", "repeated", "the field mask comes twice");
      Upload upload{.file = part.file, .bytes = std::make_shared<const std::string>(part.body)};
      if (is_mask)
        pictures.mask = std::move(upload);
      else
        pictures.images.push_back(std::move(upload));
      continue;
    }
    const std::string text(part.body);
    if (part.is_file) refuse_field(part.name, "invalid_type", "the field {} cannot be a file", shown(part.name));
    if (encode_utf8(decode_utf8(text)) != text)
      refuse_field(part.name, "invalid_type", "the field {} is no UTF-8", shown(part.name));
    // Clients send the list that an unknown field is as one part for each entry.
    const bool is_known = kKnownFields.contains(part.name) || kAnswerFields.contains(part.name);
    if (!form.fields.emplace(part.name, text).second && is_known)
      refuse_field(part.name, "repeated", "the field {} comes twice", shown(part.name));
  }
  if (pictures.images.empty())
    refuse_field("image", "missing", "image is missing: send the picture that is to be edited");
  form.order =
      order_of(Fields(form.fields, Fields::Reading::lenient), std::move(pictures), limits, limits.client_defaults);
  return form;
}

DrawingOrder parse_a1111_order(const json& body, const OrderLimits& limits) {
  const Fields fields(body, Fields::Reading::lenient);
  DrawingOrder order = a1111_order_of(fields, limits);
  SentPictures pictures;
  read_a1111_control(fields, limits, pictures, order.record.request);
  take_pictures(pictures, limits.model, order);
  return a1111_resolved(std::move(order), limits);
}

DrawingOrder parse_a1111_image_order(const json& body, const OrderLimits& limits) {
  const Fields fields(body, Fields::Reading::lenient);
  DrawingOrder order = a1111_order_of(fields, limits);
  SentPictures pictures = a1111_pictures(fields, limits, order.record.request);
  read_a1111_control(fields, limits, pictures, order.record.request);
  try {
    take_pictures(pictures, limits.model, order);
    return a1111_resolved(std::move(order), limits);
  } catch (const ApiError& error) {
    const auto renamed = [](const std::string& text) {
      if (text.starts_with("image")) return "init_images" + text.substr(std::string_view("image").size());
      if (text.starts_with("strength")) return "denoising_" + text;
      return text;
    };
    throw ApiError(error.status, error.type, renamed(error.what()), renamed(error.param), error.code);
  }
}

}  // namespace nostos::server
