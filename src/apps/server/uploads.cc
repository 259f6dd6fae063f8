// Implements the check of pictures that clients send.
#include "apps/server/uploads.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <utility>

#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "base/error.h"
#include "base/sha256.h"
#include "io/grey_image.h"

namespace nostos::server {
namespace {

std::string file_of_text(const nlohmann::json& value, const std::string& field) {
  if (!value.is_string())
    refuse_field(field, "invalid_type", "{} must be a picture's file in base64, or the id of a picture of this server",
                 field);
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

constexpr const char* kControlField = "control.image";
constexpr std::string_view kImageId = "img_";  // begins the ids of the server's pictures, and no base64: it has no _
constexpr ImageLimits kLimits{.bytes = kMaxUploadBytes};  // of one picture

std::span<const uint8_t> bytes_of(const Upload& upload) {
  return {reinterpret_cast<const uint8_t*>(upload.bytes->data()), upload.bytes->size()};
}

std::string image_field(size_t index) { return fmt::format("image[{}]", index); }

/// \return what `read` makes of a picture. \throws ApiError 400 naming the field where it cannot be read
template <class Read>
auto read_or_refuse(const Upload& upload, const std::string& field, const Read& read) {
  try {
    return read();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::invalid_input) throw;
    refuse_field(field, "invalid_image", "{}{}: {}", field, upload.file.empty() ? "" : " (" + upload.file + ")",
                 error.what());
  }
}

/// \return what the headers say of all pictures, before a pixel of any is decoded: images, then the mask, then the
/// control image.
std::vector<ReferenceImage> read_headers(const SentPictures& sent) {
  std::vector<ReferenceImage> read;
  int64_t pixels = 0;
  const auto add = [&](const Upload& upload, const std::string& field) {
    const ImageSize size = read_or_refuse(upload, field, [&] { return read_image_size(bytes_of(upload), kLimits); });
    pixels += size.height * size.width;
    if (pixels > kMaxUploadPixels)
      refuse_field(
          field, "out_of_range",
          "{} is one too many: the pictures up to it have {} pixels together, of a request at most {} are read", field,
          pixels, kMaxUploadPixels);
    read.push_back({.file = upload.file, .sha256 = {}, .size = size, .image = nullptr});
  };
  for (size_t i = 0; i < sent.images.size(); ++i) add(sent.images[i], image_field(i));
  if (sent.mask) add(*sent.mask, "mask");
  if (sent.control) add(*sent.control, kControlField);
  return read;
}

/// \return the picture's file as it is kept, once it is decoded. \param size of the decoded picture
std::shared_ptr<const std::string> checked(const Upload& upload, ImageSize& size) {
  const Image image = decode_image(bytes_of(upload), kLimits);
  size = {image.height, image.width};
  return upload.bytes;
}

/// \return the file of a grey picture.
std::shared_ptr<const std::string> grey_file(GreyImage grey) {
  Image image{grey.height, grey.width, {}};
  image.rgb.reserve(grey.grey.size() * 3);
  for (const uint8_t value : grey.grey) image.rgb.insert(image.rgb.end(), 3, value);
  grey.grey = {};
  const std::vector<uint8_t> file = encode_image(image, ImageFormat::png);
  return std::make_shared<const std::string>(file.begin(), file.end());
}

/// The same of a mask, which is white on black then.
std::shared_ptr<const std::string> checked_mask(const SentPictures& sent, ImageSize& size) {
  if (sent.mask_rule == MaskRule::white && !sent.inverts_mask) return checked(*sent.mask, size);
  DecodedMask mask;
  if (sent.mask_rule == MaskRule::white)
    mask.grey = grey_of(decode_image(bytes_of(*sent.mask), kLimits));
  else
    mask = decode_mask(bytes_of(*sent.mask), kLimits);
  size = {mask.grey.height, mask.grey.width};
  const bool is_turned = sent.inverts_mask != (mask.is_by_transparency && sent.mask_rule == MaskRule::opaque);
  if (is_turned)
    for (uint8_t& value : mask.grey.grey) value = static_cast<uint8_t>(255 - value);
  return is_turned || mask.is_by_transparency ? grey_file(std::move(mask.grey)) : sent.mask->bytes;
}

std::string hash_of(const std::string& file) {
  return sha256({reinterpret_cast<const uint8_t*>(file.data()), file.size()});
}

}  // namespace

Upload upload_of(const nlohmann::json& value, const std::string& field, const PictureFinder& find) {
  if (!value.is_string() || !value.get_ref<const std::string&>().starts_with(kImageId))
    return {.bytes = std::make_shared<const std::string>(file_of_text(value, field))};
  const auto& id = value.get_ref<const std::string&>();
  std::optional<Upload> found = find ? find(id) : std::nullopt;
  if (!found)
    refuse_field(field, "unknown_image", "{} is {}: this server has no such picture", field, id.substr(0, 100));
  if (found->bytes->size() > kMaxUploadBytes)
    refuse_field(field, "too_large", "{} is larger than {} bytes", field, kMaxUploadBytes);
  return std::move(*found);
}

std::vector<Upload> uploads_of(const nlohmann::json& image, const PictureFinder& find) {
  std::vector<Upload> uploads;
  if (image.is_null()) return uploads;
  if (!image.is_array()) {
    uploads.push_back(upload_of(image, "image", find));
  } else {
    for (size_t i = 0; i < image.size(); ++i) uploads.push_back(upload_of(image[i], image_field(i), find));
  }
  return uploads;
}

void check_count(size_t images, const GenerationRequest& request, const ModelLimits& limits) {
  if (images == 0) {
    if (request.mask)
      refuse_field("mask", "missing", "mask is given, but no image of which it says what is drawn anew");
    if (request.strength) refuse_field("strength", "missing", "strength is given, but no image to begin with");
    return;
  }
  const bool takes_references = limits.max_reference_images > 0;
  if (!takes_references && images > 1)
    refuse_field(
        "image", "out_of_range",
        "image has {} pictures: this model takes one, which the drawing begins with, and no reference pictures",
        images);
  const bool begins = request.strength && !request.mask;  // with what the model does not look at then
  const size_t references = images - (begins ? 1 : 0);
  if (takes_references && references > static_cast<size_t>(limits.max_reference_images))
    refuse_field("image", "out_of_range", "image has {} reference pictures: this model takes at most {}", references,
                 limits.max_reference_images);
}

void take_pictures(const SentPictures& sent, const ModelLimits& limits, DrawingOrder& order) {
  GenerationRequest& request = order.record.request;
  check_count(sent.images.size(), request, limits);
  if (sent.images.empty() && !sent.control) return;
  request.images = read_headers(sent);
  if (sent.control) {
    request.control->image = std::move(request.images.back());
    request.images.pop_back();
  }
  if (sent.mask) {
    request.mask->image = std::move(request.images.back());
    request.images.pop_back();
  }
  resolve_or_refuse(request, limits);
  const auto take = [](const Upload& upload, const std::string& field, ReferenceImage& image, const auto& read) {
    const auto file = read_or_refuse(upload, field, [&] { return read(image.size); });
    image.sha256 = hash_of(*file);
    return file;
  };
  for (size_t i = 0; i < sent.images.size(); ++i)
    order.references.push_back(take(sent.images[i], image_field(i), request.images[i],
                                    [&](ImageSize& size) { return checked(sent.images[i], size); }));
  if (sent.mask)
    order.mask =
        take(*sent.mask, "mask", request.mask->image, [&](ImageSize& size) { return checked_mask(sent, size); });
  if (sent.control)
    order.control = take(*sent.control, kControlField, *request.control->image,
                         [&](ImageSize& size) { return checked(*sent.control, size); });
}

ResolvedRequest resolve_or_refuse(const GenerationRequest& request, const ModelLimits& limits) {
  try {
    return resolve(request, limits);
  } catch (const Error& error) {
    const std::string message = error.what();
    throw ApiError(400, "invalid_request_error", message, message.substr(0, message.find(' ')), "out_of_range");
  }
}

}  // namespace nostos::server
