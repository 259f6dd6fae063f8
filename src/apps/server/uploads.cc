// Implements the check of reference pictures that clients send.
#include "apps/server/uploads.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "base/error.h"
#include "base/sha256.h"
#include "pipeline/reference_images.h"

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
  std::string file = from_base64(text, Base64Form::with_spaces);
  if (file.empty()) refuse_field(field, "invalid_type", "{} is no base64; send a PNG, JPEG or WebP in base64", field);
  return file;
}

constexpr ImageLimits kLimits{.bytes = kMaxUploadBytes};  // of one picture

std::span<const uint8_t> bytes_of(const Upload& upload) {
  return {reinterpret_cast<const uint8_t*>(upload.bytes->data()), upload.bytes->size()};
}

std::string field_of(size_t index) { return fmt::format("image[{}]", index); }

/// \return how messages call a picture.
std::string shown(const Upload& upload, size_t index) {
  return field_of(index) + (upload.file.empty() ? "" : " (" + upload.file + ")");
}

/// \return the size of a picture, as `size` has it. \throws ApiError 400 naming the picture where it cannot be read
template <class Size>
ImageSize asked_of(const Upload& upload, size_t index, const Size& size) {
  try {
    return size();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::invalid_input) throw;
    refuse_field(field_of(index), "invalid_image", "{}: {}", shown(upload, index), error.what());
  }
}

/// Refuses what the headers show that it cannot be drawn from, before a pixel of any picture is decoded.
void check_headers(const std::vector<Upload>& uploads, const ModelLimits& limits) {
  int64_t pixels = 0;
  for (size_t i = 0; i < uploads.size(); ++i) {
    const ImageSize size = asked_of(uploads[i], i, [&] { return read_image_size(bytes_of(uploads[i]), kLimits); });
    try {
      prepared_size(size, limits, shown(uploads[i], i));
    } catch (const Error& error) {
      refuse_field(field_of(i), "out_of_range", "{}", error.what());
    }
    pixels += size.height * size.width;
    if (pixels > kMaxUploadPixels)
      refuse_field(
          field_of(i), "out_of_range",
          "{} is one too many: the pictures up to it have {} pixels together, of a request at most {} are read",
          shown(uploads[i], i), pixels, kMaxUploadPixels);
  }
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
  check_headers(uploads, limits);
  std::vector<ReferenceImage> references;
  for (size_t i = 0; i < uploads.size(); ++i) {
    const std::span<const uint8_t> bytes = bytes_of(uploads[i]);
    const auto decoded_size = [&] {
      const Image image = decode_image(bytes, kLimits);
      return ImageSize{image.height, image.width};
    };
    references.push_back({.file = uploads[i].file,
                          .sha256 = sha256(bytes),
                          .size = asked_of(uploads[i], i, decoded_size),
                          .image = nullptr});
  }
  return references;
}

}  // namespace nostos::server
