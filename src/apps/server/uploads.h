// Owns the reference pictures that clients send: checked when they come, and decoded again when their job is drawn.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "pipeline/request.h"

namespace nostos::server {

constexpr size_t kMaxUploadBytes = size_t{48} << 20;      ///< of one picture's file
constexpr int64_t kMaxUploadPixels = int64_t{1} << 27;    ///< of all pictures of a request together
constexpr size_t kMaxUploadBodyBytes = size_t{64} << 20;  ///< of a request with pictures

/// A picture as a client sent it.
struct Upload {
  std::string file{};                          ///< what the client calls it; may be empty
  std::shared_ptr<const std::string> bytes{};  ///< of the file
};

/// \param image the field of a body in JSON: a picture's file in base64, with or without "data:image/png;base64,"
/// before it, or a list of such. Null: none
/// \return the files. \throws ApiError 400 naming `image`
std::vector<Upload> uploads_of(const nlohmann::json& image, const ModelLimits& limits);

/// Looks at the header of every picture, and then decodes one after another, so that none is taken that cannot be drawn
/// from. Takes seconds, and memory as docs/api.md says; ReadingLane keeps it to one request at a time.
/// \return what is known of each, without its pixels.
/// \throws ApiError 400 naming the picture, as image[0], if the model takes none or not so many, or a file is too
/// large, damaged, of no format that is read, or of a shape that prepared_size() refuses
std::vector<ReferenceImage> references_of(const std::vector<Upload>& uploads, const ModelLimits& limits);

}  // namespace nostos::server
