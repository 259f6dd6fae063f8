// Owns the text that a picture carries: what WebUI tools read, and what nostos needs to draw it again.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/image.h"
#include "pipeline/request.h"

namespace nostos::cli {

/// Everything that decides a picture.
struct DrawingRecord {
  GenerationRequest request;       ///< all optionals set, num_outputs 1, seed that of this picture
  std::string model_path;          ///< as the user gave it; empty: the embedded model
  std::string precision = "auto";  ///< "auto", "f32" or "bf16"
  std::string variant{};           ///< of the weights, as the user gave it; empty: none
};

/// Keyword of the PNG text chunk that holds to_json() of a picture's record.
constexpr std::string_view kRecordKeyword = "nostos";

/// \return the record as one line of JSON.
std::string to_json(const DrawingRecord& record);

/// \param name stands for the text in messages
/// \throws Error model or invalid_input naming the field: no JSON, a field missing, of the wrong type or out of any
/// range.
DrawingRecord parse_drawing_record(std::string_view json, const std::string& name);

/// \return the record that nostos wrote into the PNG. \throws Error invalid_input if the file is no PNG or holds none.
DrawingRecord read_drawing_record(const std::filesystem::path& png);

/// \return the text that WebUI tools show: prompt, negative prompt, and one line of settings.
std::string webui_parameters(const DrawingRecord& record);

/// \return the name that a picture gives its model: the last part of its path or name.
std::string model_label(const DrawingRecord& record);

/// \return what goes into the image file of this record.
std::vector<TextChunk> text_chunks(const DrawingRecord& record);

}  // namespace nostos::cli
