// Owns what programs are told of a drawing, as JSON: by `nostos generate --json`, and by the C interface.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "pipeline/engine.h"
#include "pipeline/record.h"

namespace nostos {

/// \return what a run cost: stages, steps, step times in milliseconds, bytes.
/// \param start_ms until the engine was ready
/// \param total_ms of all
nlohmann::ordered_json report_json(const RunReport& report, double start_ms, double total_ms);

/// \return all that is said of a drawing beside its images. \param record with the precision that it was drawn in
/// \param model where it is
nlohmann::ordered_json drawing_json(const DrawingRecord& record, const ModelFiles& model, const Generation& generation,
                                    nlohmann::ordered_json report);

}  // namespace nostos
