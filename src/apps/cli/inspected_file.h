// Owns how `nostos inspect` shows a file of weights or an adapter: as JSON and as text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoints/adapter_contents.h"
#include "checkpoints/file_contents.h"

namespace nostos::cli {

/// A file, and where it is an adapter's, the models that it was tried with.
struct InspectedFile {
  FileContents contents;
  std::vector<AdapterFit> fits;
};

/// \return all that is known of the file.
nlohmann::ordered_json file_json(const InspectedFile& file);

/// \return what a user wants to know first. \param with_layers whether to list every tensor
std::string file_text(const InspectedFile& file, bool with_layers);

/// \return e.g. [{"format": "BF16", "tensors": 3, "numbers": 12, "bytes": 24, "bits_per_number": 16}].
nlohmann::ordered_json groups_json(const std::vector<FormatGroup>& groups);

/// \return e.g. "3 BF16, 2 Q4_K".
std::string groups_line(const std::vector<FormatGroup>& groups);

/// \return the config as JSON that keeps its order, null without one.
nlohmann::ordered_json parsed(const std::optional<JsonConfig>& config);

}  // namespace nostos::cli
