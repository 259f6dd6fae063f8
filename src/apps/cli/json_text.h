// Owns the JSON that the commands write: every field always, in a fixed order.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "pipeline/engine.h"

namespace nostos::cli {

/// \return the fields of a resolved request under the names that the flags have (with underscores).
nlohmann::ordered_json request_json(const GenerationRequest& request);

/// \return what a run cost: stages, steps, step times in milliseconds, bytes.
/// \param start_ms time from the command's start until the engine was ready
/// \param total_ms time from the command's start until all was written
nlohmann::ordered_json report_json(const RunReport& report, double start_ms, double total_ms);

/// \return JSON on one line, or indented for people; invalid UTF-8 becomes U+FFFD.
std::string json_line(const nlohmann::ordered_json& json);
std::string json_pretty(const nlohmann::ordered_json& json);

}  // namespace nostos::cli
