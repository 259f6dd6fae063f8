// Implements the check of reference pictures that clients send.
#include "apps/server/uploads.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "base/error.h"
#include "base/sha256.h"

namespace nostos::server {
namespace {

/// What is refused before a byte is decoded.
void check_count(size_t count, const ModelLimits& limits) {
  if (count == 0) return;
  if (limits.max_reference_images == 0)
    refuse_field("image", "unsupported",
                 "image is given, but this model takes no reference pictures: it draws from text alone");
  if (static_cast<int64_t>(count) > limits.max_reference_images)
    refuse_field("image", "out_of_range", "image has {} reference pictures: this model takes at most {}", count,
                 limits.max_reference_images);
}

std::string file_of_text(const nlohmann::json& value, const std::string& field) {
  if (!value.is_string())
    refuse_field(field, "invalid_type", "{} must be a picture's file in base64, or a list of these", field);
  std::string_view text = value.get_ref<const std::string&>();
  if (text.starts_with("data:")) {
    const size_t comma = text.find(',');
    if (comma == std::string_view::npos || !text.substr(0, comma).ends_with(";base64"))
      refuse_field(field, "invalid_type", "{} is a data URL without base64", field);
    text.remove_prefix(comma + 1);
  }
  if (text.size() / 4 * 3 > kMaxUploadBytes + 3)
    refuse_field(field, "too_large", "{} is larger than {} bytes", field, kMaxUploadBytes);
  std::string file = from_base64(text);
  if (file.empty()) refuse_field(field, "invalid_type", "{} is no base64; send a PNG, JPEG or WebP in base64", field);
  return file;
}

}  // namespace

std::vector<Upload> uploads_of(const nlohmann::json& image, const ModelLimits& limits) {
  std::vector<Upload> uploads;
  if (image.is_null()) return uploads;
  check_count(image.is_array() ? image.size() : 1, limits);
  const auto add = [&](const nlohmann::json& value, const std::string& field) {
    uploads.push_back({.bytes = std::make_shared<const std::string>(file_of_text(value, field))});
  };
  if (!image.is_array()) {
    add(image, "image");
  } else {
    for (size_t i = 0; i < image.size(); ++i) add(image[i], fmt::format("image[{}]", i));
  }
  return uploads;
}

std::vector<ReferenceImage> references_of(const std::vector<Upload>& uploads, const ModelLimits& limits) {
  check_count(uploads.size(), limits);
  std::vector<ReferenceImage> references;
  ImageLimits left{.bytes = kMaxUploadBytes, .pixels = ImageLimits{}.pixels};
  int64_t pixels_left = kMaxUploadPixels;
  for (const Upload& upload : uploads) {
    const std::string field = fmt::format("image[{}]", references.size());
    const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(upload.bytes->data()), upload.bytes->size());
    left.pixels = std::min(left.pixels, pixels_left);
    try {
      const Image image = decode_image(bytes, left);
      pixels_left -= image.height * image.width;
      references.push_back(
          {.file = upload.file, .sha256 = sha256(bytes), .size = {image.height, image.width}, .image = nullptr});
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::invalid_input) throw;
      refuse_field(field, "invalid_image", "{}{}: {}", field, upload.file.empty() ? "" : " (" + upload.file + ")",
                   error.what());
    }
  }
  return references;
}

}  // namespace nostos::server
