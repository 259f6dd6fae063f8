// Owns the rounding of packed heads to 8 bits where they lie.
#pragma once

#include "ops/attention.h"
#include "ops/cuda/hopper.h"
#include "tensor/tensor.h"

namespace nostos::cuda {

/// What ops::split_heads_rope(), ops::key_centres() and ops::quantise_heads() do to q and k heads, in place: the
/// numbers of a head take the first half of its bytes.
/// \param qkv bf16 [tokens, heads.all() * 128]. \param centres f32 [heads.kv, 128], overwritten
void round_packed_heads(Context& ctx, View qkv, const ops::RotaryHeads& rotary, ops::HeadCounts heads, float* centres,
                        const HeadScales& scales);

}  // namespace nostos::cuda
