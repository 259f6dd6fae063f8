// Owns the record of a drawing: what decides a picture, as text. Pictures carry it (with what WebUI tools read), the
// server's jobs are stored as it, and rank 0 sends it to ranks in other processes.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "io/image.h"
#include "pipeline/request.h"

namespace nostos {

/// Places of a model's parts, as the user gave them; empty: the model's own. See ModelFiles.
struct PartPaths {
  std::string transformer{}, text_encoder{}, vae{}, tokenizer{}, controlnet{};
  bool is_base = false;

  friend bool operator==(const PartPaths&, const PartPaths&) = default;
};

/// Everything that decides a picture.
struct DrawingRecord {
  GenerationRequest request;  ///< all optionals set, num_outputs 1, seed that of this picture
  std::string model_path;     ///< as the user gave it; empty: the embedded model, or none but the parts
  PartPaths parts{};
  std::string precision = "auto";                       ///< "auto", "f32", "bf16" or "int8"
  std::string text_precision = "auto";                  ///< of the text encoder: "auto" or "int8"
  std::string attention_precision = "auto";             ///< "auto" or "int8"
  std::string variant{};                                ///< of the weights, as the user gave it; empty: none
  GuidanceForm guidance = GuidanceForm::from_positive;  ///< of the model, which tells what guidance_scale means
  std::string model_name{};                             ///< as the picture shows it; empty: that of model_path
};

/// Keyword of the PNG text chunk that holds to_json() of a picture's record.
constexpr std::string_view kRecordKeyword = "nostos";

/// \return the fields of a resolved request under the names that the flags have (with underscores), in a fixed order:
/// every field always, but for those that only requests with such have: `images`, a list of {file, sha256, height,
/// width}, of a drawing that begins with an image `strength`, `image_fit` and `mask`, an object like the images with
/// `blur`; of one by a control network `image_fit` and `control`, an object like the images, or with nothing of one,
/// with `scale`, `start`, `end` and `preprocessor`; and `loras`, a list of {name, file, sha256, scale}.
nlohmann::ordered_json request_json(const GenerationRequest& request);

/// \return the record as one line of JSON.
std::string to_json(const DrawingRecord& record);

/// \param name stands for the text in messages
/// \return the record; of latents and reference images it has the files and their hashes, which the caller reads.
/// \throws Error model or invalid_input naming the field: no JSON, a field missing, of the wrong type or out of any
/// range.
DrawingRecord parse_drawing_record(std::string_view json, const std::string& name);

/// \return the text of the record that nostos wrote into the PNG, for parse_drawing_record(). \throws Error
/// invalid_input if the file is no PNG or holds none.
std::string read_record_text(const std::filesystem::path& png);

/// What a model is called.
struct ModelLabel {
  std::string shown;  ///< the last part: NAME of OWNER/NAME, or the folder's name
  std::string full;   ///< OWNER/NAME of a model of Hugging Face, else as `shown`
};

/// \param model_path a folder, a snapshot in a Hugging Face cache, OWNER/NAME, or empty for the embedded model
ModelLabel model_label(const std::string& model_path);

/// \return the text that WebUI tools show: prompt, negative prompt, and one line of settings. Its `CFG scale` is the
/// usual one (see cfg_scale_of()), its `Guidance scale` the record's. The first versions of nostos wrote the record's
/// as `CFG scale`, without the other.
std::string webui_parameters(const DrawingRecord& record);

/// \return what goes into the image file of this record.
std::vector<TextChunk> text_chunks(const DrawingRecord& record);

}  // namespace nostos
