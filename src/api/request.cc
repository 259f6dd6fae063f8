// Implements the requests and the flags of nostos.h.
#include "api/handles.h"
#include "api/input_files.h"

namespace nostos::api {
namespace {

/// \return what the request says of control; a field of it makes one.
Control& control_of(nostos_request& request) {
  if (!request.asked.control) request.asked.control.emplace();
  return *request.asked.control;
}

using Text = Field<nostos_request, std::string>;
constexpr std::array kTexts{
    Text{"prompt", [](nostos_request& request, std::string text) { request.asked.prompt = std::move(text); }},
    Text{"negative_prompt",
         [](nostos_request& request, std::string text) { request.asked.negative_prompt = std::move(text); }},
    Text{"rng", [](nostos_request& request, std::string text) { request.asked.rng = parse_rng(text); }},
    Text{"image_fit",
         [](nostos_request& request, std::string text) { request.asked.image_fit = parse_image_fit(text); }},
    Text{"control_preprocessor", [](nostos_request& request,
                                    std::string text) { control_of(request).preprocessor = parse_preprocessor(text); }},
    Text{"latents", [](nostos_request& request, std::string text) { request.latents = std::move(text); }},
};

using Integer = Field<nostos_request, int64_t>;
constexpr std::array kIntegers{
    Integer{"height", [](nostos_request& request, int64_t value) { request.asked.height = value; }},
    Integer{"width", [](nostos_request& request, int64_t value) { request.asked.width = value; }},
    Integer{"num_inference_steps",
            [](nostos_request& request, int64_t value) { request.asked.num_inference_steps = value; }},
    Integer{"num_outputs", [](nostos_request& request, int64_t value) { request.asked.num_outputs = value; }},
    Integer{"max_sequence_length",
            [](nostos_request& request, int64_t value) { request.asked.max_sequence_length = value; }},
};

using Real = Field<nostos_request, double>;
constexpr std::array kReals{
    Real{"guidance_scale", [](nostos_request& request, double value) { request.asked.guidance_scale = value; }},
    Real{"cfg_normalization", [](nostos_request& request, double value) { request.asked.cfg_normalization = value; }},
    Real{"cfg_truncation", [](nostos_request& request, double value) { request.asked.cfg_truncation = value; }},
    Real{"strength", [](nostos_request& request, double value) { request.asked.strength = value; }},
    Real{"mask_blur", [](nostos_request& request, double value) { request.mask_blur = value; }},
    Real{"control_scale", [](nostos_request& request, double value) { control_of(request).scale = value; }},
    Real{"control_start", [](nostos_request& request, double value) { control_of(request).start = value; }},
    Real{"control_end", [](nostos_request& request, double value) { control_of(request).end = value; }},
};

using Reals = Field<nostos_request, std::vector<double>>;
constexpr std::array kLists{
    Reals{"sigmas",
          [](nostos_request& request, std::vector<double> values) { request.asked.sigmas = std::move(values); }},
};

using Picture = Field<nostos_request, ReferenceImage>;
constexpr std::array kImages{
    Picture{"image",
            [](nostos_request& request, ReferenceImage image) { request.asked.images.push_back(std::move(image)); }},
    Picture{"mask_image", [](nostos_request& request,
                             ReferenceImage image) { request.asked.mask = Mask{.image = std::move(image)}; }},
    Picture{"control_image",
            [](nostos_request& request, ReferenceImage image) { control_of(request).image = std::move(image); }},
};

/// \return a copy of the pixels. \throws Error invalid_input
ReferenceImage copied(const nostos_image& image) {
  const ImageLimits limits;
  const auto is_side = [&](int64_t side) { return side >= 1 && side <= limits.side; };
  require(image.rgb != nullptr, ErrorKind::invalid_input, "the image's pixels are null");
  require(is_side(image.height) && is_side(image.width) && image.height * image.width <= limits.pixels,
          ErrorKind::invalid_input,
          "the image is {}x{} pixels; each side must be 1 to {}, and both together at most {} pixels", image.width,
          image.height, limits.side, limits.pixels);
  auto pixels = std::make_shared<Image>(Image{image.height, image.width, {}});
  pixels->rgb.assign(image.rgb, image.rgb + image.height * image.width * 3);
  return {.size = {image.height, image.width}, .image = std::move(pixels)};
}

}  // namespace

GenerationRequest asked_of(const nostos_request& request) {
  GenerationRequest asked = request.asked;
  if (request.mask_blur) {
    require(asked.mask.has_value(), ErrorKind::invalid_input, "mask_blur is given without mask_image");
    asked.mask->blur = *request.mask_blur;
  }
  require(!asked.control || asked.control->image || asked.mask, ErrorKind::invalid_input,
          "a field of control is given without control_image, and without mask_image, of which a network may be told "
          "alone");
  if (!request.latents.empty()) asked.start = Latents{.file = request.latents, .values = read_latents(request.latents)};
  return asked;
}

}  // namespace nostos::api

using namespace nostos::api;

extern "C" {

nostos_cancel* nostos_cancel_new(void) { return new_handle<nostos_cancel>(); }

void nostos_cancel_set(nostos_cancel* cancel) { cancel->flag->store(true); }

int nostos_cancel_is_set(const nostos_cancel* cancel) { return cancel->flag->load() ? 1 : 0; }

void nostos_cancel_free(nostos_cancel* cancel) { delete cancel; }

nostos_request* nostos_request_new(void) { return new_handle<nostos_request>(); }

nostos_status nostos_request_set_text(nostos_request* request, const char* field, const char* value,
                                      nostos_error** error) {
  return guarded(error, [&] {
    require_given("the text", value);
    set_field<nostos_request, std::string>(kTexts, "a text", request, field, value);
  });
}

nostos_status nostos_request_set_integer(nostos_request* request, const char* field, int64_t value,
                                         nostos_error** error) {
  return guarded(error,
                 [&] { set_field<nostos_request, int64_t>(kIntegers, "a whole number", request, field, value); });
}

nostos_status nostos_request_set_real(nostos_request* request, const char* field, double value, nostos_error** error) {
  return guarded(error, [&] { set_field<nostos_request, double>(kReals, "a number", request, field, value); });
}

nostos_status nostos_request_set_reals(nostos_request* request, const char* field, const double* values, size_t count,
                                       nostos_error** error) {
  return guarded(error, [&] {
    if (count > 0) require_given("the list", values);
    nostos::require(count <= nostos::kMaxSteps, nostos::ErrorKind::invalid_input,
                    "the list has {} numbers; it may have at most {}", count, nostos::kMaxSteps);
    set_field<nostos_request, std::vector<double>>(kLists, "a list of numbers", request, field,
                                                   std::vector<double>(values, values + count));
  });
}

void nostos_request_set_seed(nostos_request* request, uint64_t seed) { request->asked.seed = seed; }

nostos_status nostos_request_add_image(nostos_request* request, const char* field, nostos_image image,
                                       nostos_error** error) {
  return guarded(error, [&] {
    set_field<nostos_request, nostos::ReferenceImage>(kImages, "an image", request, field, copied(image));
  });
}

nostos_status nostos_request_add_image_file(nostos_request* request, const char* field, const char* path,
                                            nostos_error** error) {
  return guarded(error, [&] {
    require_given("the path", path);
    set_field<nostos_request, nostos::ReferenceImage>(kImages, "an image", request, field, nostos::read_image(path));
  });
}

nostos_status nostos_request_add_lora(nostos_request* request, const char* path, double scale, nostos_error** error) {
  return guarded(error, [&] {
    require_given("the request", request);
    require_given("the path", path);
    nostos::require(*path != '\0', nostos::ErrorKind::invalid_input, "the path of a LoRA is empty");
    request->asked.adapters.push_back(
        {.name = std::filesystem::path(path).stem().string(), .file = path, .scale = scale});
  });
}

void nostos_request_on_stage(nostos_request* request, nostos_stage_function on_stage, void* user) {
  request->on_stage = {on_stage, user};
}

void nostos_request_on_step(nostos_request* request, nostos_step_function on_step, void* user) {
  request->on_step = {on_step, user};
}

void nostos_request_on_preview(nostos_request* request, nostos_preview_function on_preview, void* user) {
  request->on_preview = {on_preview, user};
}

void nostos_request_set_cancel(nostos_request* request, const nostos_cancel* cancel) {
  request->cancel = cancel == nullptr ? nullptr : cancel->flag;
}

void nostos_request_free(nostos_request* request) { delete request; }
}
