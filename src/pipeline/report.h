// Owns the last stage of a drawing: the report of what the drawing cost.
#pragma once

#include <cstdint>

#include "pipeline/drawing.h"

namespace nostos {

/// On a process's leader: notes how much of the weights is loaded now, if that is the most so far. Stages call it when
/// parts have been loaded.
void report_weights(Drawing& drawing);

/// \return denoising steps that are done, of all images together.
int64_t steps_done(const Drawing& drawing);

/// Notes the lane that begins to denoise. Where it goes on with another lane's drawing it waits for the devices, so
/// that what the change took is known. All ranks call it.
void report_lane(Drawing& drawing);

/// Fills in the times of what this lane did and its device has done.
void report_work(Drawing& drawing);

/// Fills in the times, and on rank 0 what every rank did. All ranks call it.
/// \param bytes_sent by this rank to other ranks
void finish_report(Drawing& drawing, uint64_t bytes_sent);

}  // namespace nostos
