// Owns the CPU side of every op: see ops::Backend.
#pragma once

#include "ops/backend.h"

namespace nostos::cpu {

Linear pack_linear(Context& ctx, ConstView weight);
void linear(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate);
bool has_bf16_products(Context& ctx);

Conv2d pack_conv2d(Context& ctx, ConstView filter, ConstView bias);
void conv2d(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
            bool accumulate);

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

}  // namespace nostos::cpu
