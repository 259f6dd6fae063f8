// Owns the last stage of a drawing: what it cost.
#pragma once

#include <cstdint>

#include "pipeline/drawing.h"

namespace nostos {

/// On a process's leader: notes what weights are loaded now, if they are the most so far.
void report_weights(Drawing& drawing);

/// Fills in times, and what every rank did, which rank 0 gets. All ranks call it. \param bytes_sent by this rank, to others
void finish_report(Drawing& drawing, uint64_t bytes_sent);

}  // namespace nostos
