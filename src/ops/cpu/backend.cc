// Lists the CPU's kernels.
#include "ops/cpu/ops.h"

namespace nostos::ops {

const Backend& cpu_backend() {
  static constexpr Backend backend{
      .has_bf16_products = cpu::has_bf16_products,
      .pack_linear = cpu::pack_linear,
      .borrow_linear = nullptr,
      .linear = cpu::linear,
      .fuses_gated_linear = nullptr,
      .interleave_gates = nullptr,
      .gated_linear = nullptr,
      .pack_conv2d = cpu::pack_conv2d,
      .conv2d = cpu::conv2d,
      .plan_conv2d = nullptr,
      .finish_plans = nullptr,
      .pack_phases = nullptr,
      .interleave_phases = nullptr,
      .fuses_phases = nullptr,
      .phases_conv2d = nullptr,
      .rms_norm = cpu::rms_norm,
      .layer_norm_scaled = cpu::layer_norm_scaled,
      .add_gated_rms_norm = cpu::add_gated_rms_norm,
      .group_norm_row_sums = cpu::group_norm_row_sums,
      .group_norm_apply = cpu::group_norm_apply,
      .split_heads_rope = cpu::split_heads_rope,
      .attention = cpu::attention,
      .packs_attention = nullptr,
      .packed_attention = nullptr,
      .attention_part = cpu::attention_part,
      .merge_attention = cpu::merge_attention,
      .silu_mul = cpu::silu_mul,
      .silu = cpu::silu,
      .finish_modulation = cpu::finish_modulation,
      .add_scalar = cpu::add_scalar,
      .convert = cpu::convert,
      .fill_rows = cpu::fill_rows,
      .clear = cpu::clear,
      .embed = cpu::embed,
      .copy_rows = cpu::copy_rows,
      .guide = cpu::guide,
      .cap_norm = cpu::cap_norm,
      .euler_step = cpu::euler_step,
      .philox_normal = cpu::philox_normal,
      .patchify = cpu::patchify,
      .unpatchify = cpu::unpatchify,
      .latents_to_image = cpu::latents_to_image,
      .upsample_nearest_2x = cpu::upsample_nearest_2x,
      .to_pixels = cpu::to_pixels,
  };
  return backend;
}

}  // namespace nostos::ops
