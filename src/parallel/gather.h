// Owns cutting tensors by a shard plan and putting the parts together again, on host memory.
#pragma once

#include "parallel/shard_plan.h"
#include "tensor/tensor.h"

namespace nostos::parallel {

/// Copies a rank's rows out of the whole sequence. Any dtype and row shape; every tensor is on the host.
/// \param whole [grid tokens, ...] or, with the pads of one rank, [padded grid tokens, ...]
/// \param part [image tokens of the share, ...], or with pads [active rows of the share, ...], in the rank's own order
/// \throws Error internal for other shapes, or unlike dtypes
void cut_tokens(const ShardPlan& plan, int64_t rank, ConstView whole, View part);

/// The inverse of cut_tokens(): copies a rank's rows to their places in the whole sequence and leaves the others alone.
void place_tokens(const ShardPlan& plan, int64_t rank, ConstView part, View whole);

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
