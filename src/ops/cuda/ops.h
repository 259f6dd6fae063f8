// Owns the CUDA side of every op: see ops::Backend. Each enqueues on ctx.stream() and returns; none waits.
#pragma once

#include "ops/backend.h"

namespace nostos::cuda {

Linear pack_linear(Context& ctx, ConstView weight);
Linear borrow_linear(Context& ctx, ConstView weight);
void linear(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate);
/// \return where the matrix of a packed or borrowed weight lies, as it was given.
const std::byte* matrix_of(const Linear& w);
bool has_bf16_products(Context& ctx);
bool fuses_gated_linear(Device device, DType dtype, const GatedShape& shape);
void interleave_gates(Context& ctx, ConstView weight, View out);
void gated_linear(Context& ctx, ConstView x, const Linear& w, View out);

Conv2d pack_conv2d(Context& ctx, ConstView filter, ConstView bias);
void conv2d(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
            bool accumulate);
void plan_conv2d(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
                 bool accumulate);
void finish_plans(Context& ctx);
Conv2d pack_phases(Context& ctx, ConstView filter, ConstView bias);
void interleave_phases(Context& ctx, ConstView x, View y);
bool fuses_phases(Device device, const Conv2d& filter, DType y);
void phases_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View y);

void rms_norm(Context& ctx, ConstView x, ConstView weight, ConstView scale, float eps, View out);
void layer_norm_scaled(Context& ctx, ConstView x, ConstView scale, float eps, View out);
void add_gated_rms_norm(Context& ctx, ConstView projected, ConstView weight, ConstView gate, float eps, View x,
                        const ops::NextNorm& next);
void group_norm_row_sums(Context& ctx, ConstView x, View sums);
void group_norm_apply(Context& ctx, ConstView x, ConstView sums, int64_t row_pixels, ConstView weight, ConstView bias,
                      float eps, bool silu, View out);

void split_heads_rope(Context& ctx, ConstView qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                      ConstView sin, ops::RotaryPairs pairs, std::span<const ops::HeadGroup> groups);
void attention(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, bool causal, View out);
bool packs_attention(Device device, DType dtype, int64_t head_dim, bool causal);
void packed_attention(Context& ctx, View qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                      ConstView sin, ops::RotaryPairs pairs, int64_t heads, int64_t kv_heads, float scale,
                      std::span<const ops::RowTarget> out);
/// What split_heads_rope() does to q and k heads, in place. \param qkv [tokens, (heads + 2 * kv_heads) * head_dim] of
/// heads that has_vector_heads() serves.
void rotate_heads(Context& ctx, View qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos, ConstView sin,
                  ops::RotaryPairs pairs, int64_t heads, int64_t kv_heads);
void attention_part(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, View out, View log_sum_exp);
void merge_attention(Context& ctx, ConstView part, ConstView part_log_sum_exp, View out, View log_sum_exp);

void silu_mul(Context& ctx, ConstView gate_up, View out);
void silu(Context& ctx, ConstView x, View out);
void finish_modulation(Context& ctx, View x);
void add_scalar(Context& ctx, float value, View x);
void convert(Context& ctx, ConstView x, View out);
void fill_rows(Context& ctx, ConstView row, View out);
void clear(Context& ctx, View out);
void embed(Context& ctx, ConstView table, ConstView ids, View out);
void copy_rows(Context& ctx, ConstView from, View to, std::span<const ops::RowRun> runs);
void guide(Context& ctx, ConstView positive, ConstView negative, float guidance, View out, View token_squares);
void cap_norm(Context& ctx, ConstView token_squares, float max_norm_ratio, View x);
void euler_step(Context& ctx, ConstView model_output, ConstView delta, View x);

void philox_normal(Context& ctx, uint64_t seed, View out);

void patchify(Context& ctx, ConstView latents, int64_t patch, View tokens);
void unpatchify(Context& ctx, ConstView tokens, int64_t patch, View latents);
void latents_to_image(Context& ctx, ConstView latents, float scale, float shift, View image);
void upsample_nearest_2x(Context& ctx, ConstView x, View out);
void to_pixels(Context& ctx, ConstView x, View out, View invalid);

}  // namespace nostos::cuda
