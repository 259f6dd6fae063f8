// Owns the last stage of a drawing: the report of what the drawing cost.
#pragma once

#include <cstdint>

#include "pipeline/drawing.h"

namespace nostos {

/// On a process's leader: notes how much of the weights is loaded now, if that is the most so far. Stages call it when
/// parts have been loaded.
void report_weights(Drawing& drawing);

/// Fills in the times, and on rank 0 what every rank did. All ranks call it.
/// \param bytes_sent by this rank to other ranks
void finish_report(Drawing& drawing, uint64_t bytes_sent);

}  // namespace nostos
