// Fuzzes the forms with files that strangers send: any body and type give parts that lie within the body, or are
// refused as a client's fault; so is what the parts are taken for.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "apps/server/api_error.h"
#include "apps/server/fields.h"
#include "apps/server/multipart.h"
#include "base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  using namespace nostos::server;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // The type is the first line, as in the inputs to start from.
  const size_t line = std::min(text.find('\n'), size);
  const std::string_view body = text.substr(std::min(line + 1, size));
  const ModelLimits model{.max_reference_images = 2};
  const OrderLimits limits{.model = model, .max_pixels = 1 << 20, .model_path = "", .precision = "f32"};
  try {
    const std::vector<FormPart> parts = parse_multipart(text.substr(0, line), body);
    check(parts.size() <= kMaxFormParts, "forms have a limit");
    for (const FormPart& part : parts) {
      check(!part.name.empty() && part.body.data() >= body.data() &&
                part.body.data() + part.body.size() <= body.data() + body.size(),
            "a part lies within its form");
    }
    const FormOrder form = parse_form_order(parts, limits);
    check(form.order.references.size() == form.order.record.request.images.size(), "each reference has its file");
  } catch (const ApiError& error) {
    check(error.status == 400 || error.status == 415, "a bad form is a client's fault");
  }
  return 0;
}
