// Owns the merged weight: what an update makes of a matrix, in plain loops. It is the reference for whatever applies an
// update in another way, and what writing a merged checkpoint takes.
#pragma once

#include <span>
#include <vector>

#include "adapters/adapter.h"

namespace nostos {

/// \return row `row` of the update's delta, without scale, in float64 [columns]. \param row counted from its first
std::vector<double> delta_row(const WeightUpdate& update, int64_t row);

/// W <- W + strength * scale * delta in the update's rows, computed in float64 and rounded once. With a magnitude m the
/// sum's row i becomes m[i] / |row i| times itself, or column j likewise, as in PEFT and LyCORIS: |.| is the norm of
/// the sum, and a row of zeros stays. A strength of 0 leaves the magnitude at work, as in PEFT. A row depends on that
/// row alone, but with lengths of columns on the whole.
/// Sources: PEFT's DoraLinearLayer and LyCORIS's weight_decompose(); arXiv:2402.09353 for the method.
/// \param weight float32 [rows, update.columns]: all rows of the target
/// \throws Error internal if the update's rows are not among them
void merge_update(const WeightUpdate& update, double strength, std::span<float> weight);

}  // namespace nostos
