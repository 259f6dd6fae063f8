// Owns the reading of request bodies that nobody vouches for: JSON with limits, and the fields that make a drawing
// order.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "apps/server/client_defaults.h"
#include "apps/server/job.h"
#include "apps/server/multipart.h"
#include "apps/server/uploads.h"
#include "pipeline/request.h"

namespace nostos::server {

class LoraFolder;

constexpr int kMaxJsonDepth = 32;
constexpr size_t kMaxPromptBytes = 32'000;
constexpr int64_t kMaxPictures = 10;  ///< of one request

/// What this server draws, for checks and defaults.
struct OrderLimits {
  ModelLimits model;
  int64_t max_pixels = 0;
  bool wants_guidance = false;  ///< the ranks split its two halves, and cannot draw without
  std::string model_path;       ///< as the user gave it, for the pictures' records
  PartPaths parts{};            ///< likewise
  std::string model_name{};     ///< as the pictures show it
  std::string precision, text_precision = "auto", attention_precision = "auto";
  std::string variant{};                ///< of the weights, for the records
  std::shared_ptr<LoraFolder> loras{};  ///< those that clients may name; null: none
  PictureFinder find_picture{};         ///< of the server's pictures, which clients may name; null: none
  /// Of clients of OpenAI's and A1111's APIs; jobs are drawn as they are asked for.
  ClientDefaults client_defaults = ClientDefaults::keep;
};

/// \return the JSON object that `body` holds. \throws ApiError 400 if it is none, nested too deep, or no UTF-8.
nlohmann::json parse_body(std::string_view body);

/// One object's fields: each getter gives nothing where the field is missing or null and throws ApiError 400 naming it
/// where its type or range is wrong.
class Fields {
 public:
  /// What counts as a number or as true and false: JSON's own alone, or also "70", 1 and "yes", as pydantic has it,
  /// which A1111 reads its bodies with.
  enum class Reading { strict, lenient };

  explicit Fields(const nlohmann::json& object, Reading reading = Reading::strict)
      : object_(object), is_lenient_(reading == Reading::lenient) {}
  std::optional<std::string> string(const char* field, size_t max_bytes) const;
  std::optional<int64_t> integer(const char* field, int64_t min, int64_t max) const;
  std::optional<double> number(const char* field, double min, double max) const;
  std::optional<bool> boolean(const char* field) const;
  /// \return an integer from 0 to 2^64 - 1, which may stand in quotes, since clients whose numbers are doubles cannot
  /// write all of them otherwise. Nothing for -1 either.
  std::optional<uint64_t> seed(const char* field) const;
  /// \return the field as it is, null where it is missing.
  const nlohmann::json& value(const char* field) const;
  /// \return the same; where bodies are lenient, of a text the JSON in it, which is how forms have lists.
  nlohmann::json json_value(const char* field) const;
  /// Refuses fields other than `known`.
  void refuse_others(const std::set<std::string_view>& known) const;

 private:
  const nlohmann::json* find(const char* field) const;
  const nlohmann::json& object_;
  bool is_lenient_;
};

/// \return the order in a body of the jobs' and OpenAI's APIs.
/// \param strict the body is of the jobs' API: refuse unknown fields, and draw what is asked for
/// \throws ApiError 400 naming the field
DrawingOrder parse_order(const nlohmann::json& body, const OrderLimits& limits, bool strict);

/// An order in a form, and what else the form says.
struct FormOrder {
  DrawingOrder order;
  nlohmann::json fields;  ///< all but the files: texts by their names
};

/// \param parts of a form of OpenAI's images/edits: pictures in `image` or `image[]`, one in `mask`, of which what is
/// transparent is drawn anew, and the fields of parse_order(), numbers as texts. Unknown fields are taken.
/// \throws ApiError 400 naming the field, for a form without a picture as well
FormOrder parse_form_order(const std::vector<FormPart>& parts, const OrderLimits& limits);

/// \return the order in a body of A1111's txt2img, which may follow the picture of a unit of its ControlNet's script.
/// \throws ApiError 400 naming the field
DrawingOrder parse_a1111_order(const nlohmann::json& body, const OrderLimits& limits);
/// The same of img2img.
DrawingOrder parse_a1111_image_order(const nlohmann::json& body, const OrderLimits& limits);

}  // namespace nostos::server
