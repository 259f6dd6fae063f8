// Owns the table through which every op reaches the kernels of its context's device.
#pragma once

#include <span>

#include "device/context.h"
#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/copy_rows.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// One device kind's side of every op; called with checked arguments, each as its op says.
struct Backend {
  bool (*has_bf16_products)(Context& ctx);
  Linear (*pack_linear)(Context& ctx, ConstView weight);
  /// Null where weights are packed into a layout of the backend's own.
  Linear (*borrow_linear)(Context& ctx, ConstView weight);
  void (*linear)(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate);
  /// Whether gated_linear serves a pair of weights, once they are interleaved; these three null where none is.
  bool (*fuses_gated_linear)(Device device, DType dtype, const GatedShape& shape);
  void (*interleave_gates)(Context& ctx, ConstView weight, View out);
  void (*gated_linear)(Context& ctx, ConstView x, const Linear& w, View out);
  Conv2d (*pack_conv2d)(Context& ctx, ConstView filter, ConstView bias);
  void (*conv2d)(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
                 bool accumulate);
  /// Null where nothing is compiled for a shape.
  void (*plan_conv2d)(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
                      bool accumulate);
  void (*finish_plans)(Context& ctx);  ///< null beside plan_conv2d
  /// Four filters for an upsampling, see pack_upsampling_conv2d(); without `packed` for a filter that has none. Null
  /// where no filter has.
  Conv2d (*pack_phases)(Context& ctx, ConstView filter, ConstView bias);
  /// y [2 * height, 2 * width, channels] of its pixels' phases: y[2i + a, 2j + b, c] = x[i + a, j + b, (2a + b) * channels
  /// + c], in x's dtype or converted to f32. Null beside pack_phases.
  void (*interleave_phases)(Context& ctx, ConstView x, View y);
  /// Whether phases_conv2d serves filters of pack_phases() and y's dtype; null beside it.
  bool (*fuses_phases)(Device device, const Conv2d& filter, DType y);
  /// interleave_phases(conv2d(x)) in one, for y that does not overlap x; null where it is two.
  void (*phases_conv2d)(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View y);

  void (*rms_norm)(Context& ctx, ConstView x, ConstView weight, ConstView scale, float eps, View out);
  void (*layer_norm_scaled)(Context& ctx, ConstView x, ConstView scale, float eps, View out);
  void (*add_gated_rms_norm)(Context& ctx, ConstView projected, ConstView weight, ConstView gate, float eps, View x,
                             const NextNorm& next);
  void (*group_norm_row_sums)(Context& ctx, ConstView x, View sums);
  void (*group_norm_apply)(Context& ctx, ConstView x, ConstView sums, int64_t row_pixels, ConstView weight,
                           ConstView bias, float eps, bool silu, View out);

  void (*split_heads_rope)(Context& ctx, ConstView qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                           ConstView sin, RotaryPairs pairs, std::span<const HeadGroup> groups);
  void (*attention)(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, bool causal, View out);
  /// Whether packed_attention serves such heads; both null where it serves none.
  bool (*packs_attention)(Device device, DType dtype, int64_t head_dim, bool causal);
  void (*packed_attention)(Context& ctx, View qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                           ConstView sin, RotaryPairs pairs, int64_t heads, int64_t kv_heads, float scale,
                           std::span<const RowTarget> out);
  void (*attention_part)(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, View out, View log_sum_exp);
  void (*merge_attention)(Context& ctx, ConstView part, ConstView part_log_sum_exp, View out, View log_sum_exp);

  void (*silu_mul)(Context& ctx, ConstView gate_up, View out);
  void (*silu)(Context& ctx, ConstView x, View out);
  void (*finish_modulation)(Context& ctx, View x);
  void (*add_scalar)(Context& ctx, float value, View x);
  void (*convert)(Context& ctx, ConstView x, View out);
  void (*fill_rows)(Context& ctx, ConstView row, View out);
  void (*clear)(Context& ctx, View out);
  void (*embed)(Context& ctx, ConstView table, ConstView ids, View out);
  void (*copy_rows)(Context& ctx, ConstView from, View to, std::span<const RowRun> runs);
  void (*guide)(Context& ctx, ConstView positive, ConstView negative, float guidance, View out, View token_squares);
  void (*cap_norm)(Context& ctx, ConstView token_squares, float max_norm_ratio, View x);
  void (*euler_step)(Context& ctx, ConstView model_output, ConstView delta, View x);

  void (*philox_normal)(Context& ctx, uint64_t seed, View out);

  void (*patchify)(Context& ctx, ConstView latents, int64_t patch, View tokens);
  void (*unpatchify)(Context& ctx, ConstView tokens, int64_t patch, View latents);
  void (*latents_to_image)(Context& ctx, ConstView latents, float scale, float shift, View image);
  void (*upsample_nearest_2x)(Context& ctx, ConstView x, View out);
  void (*to_pixels)(Context& ctx, ConstView x, View out, View invalid);
};

/// \return the CPU's table.
const Backend& cpu_backend();

/// \return CUDA's table. \throws Error device if this build has none
const Backend& cuda_backend();

/// \return the table of a device. \throws Error device if this build has no kernels for it
const Backend& backend_of(Device device);

/// Begins an op: makes the calling thread work for `ctx`. \return the table of its device.
/// \throws Error device if this build has no kernels for it
inline const Backend& begin(const Context& ctx) {
  ctx.bind_thread();
  return backend_of(ctx.device());
}

}  // namespace nostos::ops
