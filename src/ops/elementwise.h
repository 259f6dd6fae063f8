// Owns element-wise ops: activations, copies and conversions, the sampler's updates, and the copy of scattered rows, by
// which shards are packed, unpacked and put in order.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// out = silu(gate_up[:, :ffn]) * gate_up[:, ffn:], silu(x) = x / (1 + exp(-x)).
/// \param gate_up f32 or product_dtype() [rows, 2 * ffn]. \param out f32 or bf16 [rows, ffn].
void silu_mul(Context& ctx, ConstView gate_up, View out);

/// The same where gates and what they gate stand in turn, Capabilities::gated_multiple of each, as interleave_gates()
/// brings them. For devices with such a multiple alone. \param gate_up f32 or bf16 [rows, 2 * ffn].
void silu_mul_interleaved(Context& ctx, ConstView gate_up, View out);

/// out = silu(x). \param x f32, any shape. \param out f32 or bf16, same number of elements.
void silu(Context& ctx, ConstView x, View out);

/// Turns a block's raw modulation (s1, g1, s2, g2) into the factors it multiplies by: (1 + s1, tanh g1, 1 + s2, tanh
/// g2), in place.
/// \param x f32 [rows, 4 * channels].
void finish_modulation(Context& ctx, View x);

/// y += x, added in float32. \param x product_dtype() of bf16, any shape. \param y f32 or of x's dtype, likewise.
void add(Context& ctx, ConstView x, View y);

/// x += value, in place. \param x f32, any shape.
void add_scalar(Context& ctx, float value, View x);

/// Copies with conversion among f32 and bf16 (and f16 to either); same number of elements.
void convert(Context& ctx, ConstView x, View out);

/// Copies one row into every row of out. \param row f32 [channels]. \param out f32 [rows, channels].
void fill_rows(Context& ctx, ConstView row, View out);

/// Consecutive rows and where they go.
struct RowRun {
  int64_t from = 0;
  int64_t to = 0;
  int64_t count = 0;
};

/// Copies rows [from, from + count) of the second axis to [to, to + count), for every entry of the first axis.
/// \param from [outer, rows, ...], \param to [outer, other rows, ...], of one dtype; no overlap. What no run names is
/// left alone.
void copy_rows(Context& ctx, ConstView from, View to, std::span<const RowRun> runs);

/// out = 0. \param out of any dtype and shape.
void clear(Context& ctx, View out);

/// out[i] = table[ids[i]]. \param table f32 or bf16 [vocabulary, channels]. \param ids i32 [rows], each in range.
/// \param out f32 [rows, channels].
void embed(Context& ctx, ConstView table, ConstView ids, View out);

/// out = positive + guidance * (positive - negative). All f32 [tokens, channels]; out may be positive.
/// \param token_squares f64 [tokens, 2] or null: the sums of squares of each token of positive and of out.
void guide(Context& ctx, ConstView positive, ConstView negative, float guidance, View out, View token_squares = {});

/// Scales x down so that the whole picture's norm is at most `max_norm_ratio` times that of the positive prediction.
/// \param token_squares f64 [all tokens, 2] of guide(), in the picture's token order, in which they are added: the
/// result does not depend on how tokens are dealt to ranks. \param x f32 [tokens, channels], all tokens or some.
void cap_norm(Context& ctx, ConstView token_squares, float max_norm_ratio, View x);

/// x -= delta * model_output: one Euler step along the negated model output. Both f32, same shape. \param delta f32
/// [1]: sigma_next - sigma, on the device, where a recorded step finds each step's own.
void euler_step(Context& ctx, ConstView model_output, ConstView delta, View x);

/// An image as it is at a noise level: level * noise + (1 - level) * clean. All f32, of one shape.
/// \param level f32 [1], on the device, where a recorded step finds each step's own
/// \param mask of the shape, or null: how much of x stays, from 0 to 1; without one nothing of x stays
/// \param x becomes (1 - mask) * image + mask * x
/// Source: diffusers pipeline_z_image_inpaint.py and FlowMatchEulerDiscreteScheduler.scale_noise().
void mix_noise(Context& ctx, ConstView clean, ConstView noise, ConstView level, ConstView mask, View x);

}  // namespace nostos::ops
