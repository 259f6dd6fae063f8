// Fuzzes what the server does with a client's bytes once HTTP is read: the target, the JSON body, the fields of each
// API.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "apps/server/api_error.h"
#include "apps/server/fields.h"
#include "apps/server/http_text.h"
#include "apps/server/identifiers.h"
#include "apps/server/lora_wishes.h"
#include "apps/server/png_info.h"
#include "base/error.h"
#include "io/utf8.h"

/// Checks what names of LoRAs in a text become.
void read_loras(std::string_view text) {
  using namespace nostos::server;
  const auto check_scales = [](const std::vector<LoraWish>& wishes) {
    nostos::check(wishes.size() <= nostos::kMaxAdapters, "LoRAs are limited");
    for (const LoraWish& wish : wishes)
      nostos::check(wish.scale >= -nostos::kMaxAdapterScale && wish.scale <= nostos::kMaxAdapterScale,
                    "scales are limited");
  };
  try {
    const TaggedPrompt found = parse_lora_tags(text);
    nostos::check(found.prompt.size() <= text.size(), "tags are taken out");
    nostos::check(!found.wishes.empty() || found.prompt == text, "a prompt without tags stays as it is");
    check_scales(found.wishes);
  } catch (const ApiError& error) {
    nostos::check(error.status == 400, "a bad tag is a bad request");
  }
  try {
    const nlohmann::json form{{"loras", text}};
    if (nostos::encode_utf8(nostos::decode_utf8(text)) == text)
      check_scales(parse_loras(Fields(form, Fields::Reading::lenient).json_value("loras")));
  } catch (const ApiError& error) {
    nostos::check(error.status == 400, "a bad list is a bad request");
  }
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos::server;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const OrderLimits limits{.model = {.control = nostos::ControlSupport::loaded},
                           .max_pixels = int64_t{1} << 22,
                           .model_path = {},
                           .precision = "f32",
                           .client_defaults = ClientDefaults::clamp};
  // One line is the request's target, the rest its body.
  const size_t line = text.find('\n');
  HttpRequest request;
  if (read_target(text.substr(0, line), request)) nostos::check(request.path.starts_with('/'), "a path begins with /");
  from_base64(text);
  request_id(text);
  webui_settings(text);
  read_loras(text);
  const std::string_view body = line == std::string_view::npos ? text : text.substr(line + 1);
  const auto within_limits = [&](const DrawingOrder& order) {
    const nostos::GenerationRequest& drawn = order.record.request;
    nostos::check(*drawn.width * *drawn.height <= limits.max_pixels, "pixels are limited");
    nostos::check(drawn.num_outputs >= 1 && drawn.num_outputs <= kMaxPictures, "pictures are limited");
    nostos::check(std::holds_alternative<nostos::Noise>(drawn.start) && drawn.sigmas.empty(),
                  "no client names files or levels");
  };
  const auto is_clamped = [&](const DrawingOrder& order) {
    return *order.record.request.num_inference_steps <= limits.model.default_steps &&
           *order.record.request.guidance_scale <= limits.model.default_guidance_scale;
  };
  try {
    const nlohmann::json parsed = parse_body(body);
    for (const bool strict : {false, true}) {
      try {
        const DrawingOrder order = parse_order(parsed, limits, strict);
        within_limits(order);
        nostos::check(strict || is_clamped(order), "settings are no more than the model's own");
      } catch (const ApiError& error) {
        nostos::check(error.status == 400, "a bad field is a bad request");
      }
    }
    for (const auto& parse : {parse_a1111_order, parse_a1111_image_order}) {
      const DrawingOrder order = parse(parsed, limits);
      within_limits(order);
      nostos::check(is_clamped(order), "settings are no more than the model's own");
    }
  } catch (const ApiError& error) {
    nostos::check(error.status == 400, "a bad body is a bad request");
  }
  return 0;
}
