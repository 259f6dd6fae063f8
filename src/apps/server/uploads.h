// Owns the pictures that clients send, references, what a drawing begins with, masks, and what it follows: checked when
// they come, and decoded again when their job is drawn.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/server/job.h"
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

/// \return the server's own picture of that id, or nothing.
using PictureFinder = std::function<std::optional<Upload>(const std::string& id)>;

/// What of a mask's file is drawn anew.
enum class MaskRule {
  white,        ///< what is white once transparency is laid over white
  transparent,  ///< what is transparent if anything is, as OpenAI's clients send masks, else what is white
  opaque,       ///< what is not transparent if anything is, as A1111 reads masks, else what is white
};

/// All pictures of a request.
struct SentPictures {
  std::vector<Upload> images{};
  std::optional<Upload> mask{};
  MaskRule mask_rule = MaskRule::white;
  bool inverts_mask = false;  ///< the other part is drawn anew
  std::optional<Upload> control{};
};

/// \param value a picture's file in base64, with or without "data:image/png;base64," before it, or the id of one of the
/// server's pictures \param field that it is of, for messages \param find null: the server has none
/// \throws ApiError 400 naming the field
Upload upload_of(const nlohmann::json& value, const std::string& field, const PictureFinder& find);
/// \param image the field of a body in JSON: what upload_of() takes, or a list of such. Null: none
/// \throws ApiError 400 naming `image`, or the element
std::vector<Upload> uploads_of(const nlohmann::json& image, const PictureFinder& find);

/// \param images how many come \param request of which strength and mask say what they are for
/// \throws ApiError 400 naming the field, if the model does not take so many, or one is missing to begin with
void check_count(size_t images, const GenerationRequest& request, const ModelLimits& limits);

/// Gives the order its pictures. Looks at the header of every one, at what the model says to their number and sizes,
/// and then decodes one after another, so that none is taken that cannot be drawn from. Takes seconds, and memory as
/// docs/api.md says; ReadingLane keeps it to one request at a time. A mask that is not white on black already becomes a
/// PNG that is.
/// \param order all of whose other fields are set, with a mask and with control where there is one
/// \throws ApiError 400 naming the picture, as image[0], mask or control.image, if a file is too large, damaged, or of
/// no format that is read; or naming the field that resolve() refuses
void take_pictures(const SentPictures& sent, const ModelLimits& limits, DrawingOrder& order);

/// \return resolve() of the request. \throws ApiError 400 naming the field that it refuses
ResolvedRequest resolve_or_refuse(const GenerationRequest& request, const ModelLimits& limits);

}  // namespace nostos::server
