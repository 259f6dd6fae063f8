// Owns cutting latents by a shard plan and putting the parts together again, on host memory: for pipelines that keep
// latents as planes. The engine keeps tokens, see nn::SequenceParallel.
#pragma once

#include "parallel/shard_plan.h"
#include "tensor/tensor.h"

namespace nostos::parallel {

/// Copies a rectangle out of every plane. \param whole [..., height, width] \param part [..., rows, columns], at least as
/// large as the rectangle: what lies beyond it is left alone. \throws Error internal for other shapes or dtypes
void cut_latent(const Rectangle& rectangle, ConstView whole, View part);

/// Crops every rank's part to its true size and joins them along the plan's axis.
/// \param parts [ranks, ..., rows, columns] as an all-gather of equal buffers leaves them: each as large as the largest
/// shard or larger, its latent in the upper left. \param whole [..., height, width] of the plan's latent.
/// \throws Error internal for other shapes or dtypes, or for a plan that is no axis plan
void gather_latent(const ShardPlan& plan, ConstView parts, View whole);

/// Without a plan, for pipelines that have none: equal shards joined along height.
/// \param parts [ranks, ..., height / ranks, width] \param whole [..., height, width]
void gather_latent(ConstView parts, View whole);

}  // namespace nostos::parallel
