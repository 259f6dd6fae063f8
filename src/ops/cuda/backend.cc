// Lists CUDA's kernels.
#include "ops/cuda/ops.h"

namespace nostos {

// Every GPU that the backend takes multiplies bf16.
bool cuda::has_bf16_products(Context&) { return true; }

namespace ops {

const Backend& cuda_backend() {
  static constexpr Backend backend{
      .has_bf16_products = cuda::has_bf16_products,
      .pack_linear = cuda::pack_linear,
      .borrow_linear = cuda::borrow_linear,
      .linear = cuda::linear,
      .fuses_gated_linear = cuda::fuses_gated_linear,
      .interleave_gates = cuda::interleave_gates,
      .gated_linear = cuda::gated_linear,
      .pack_conv2d = cuda::pack_conv2d,
      .conv2d = cuda::conv2d,
      .plan_conv2d = cuda::plan_conv2d,
      .finish_plans = cuda::finish_plans,
      .pack_phases = cuda::pack_phases,
      .interleave_phases = cuda::interleave_phases,
      .fuses_phases = cuda::fuses_phases,
      .phases_conv2d = cuda::phases_conv2d,
      .rms_norm = cuda::rms_norm,
      .layer_norm_scaled = cuda::layer_norm_scaled,
      .add_gated_rms_norm = cuda::add_gated_rms_norm,
      .group_norm_row_sums = cuda::group_norm_row_sums,
      .group_norm_apply = cuda::group_norm_apply,
      .split_heads_rope = cuda::split_heads_rope,
      .attention = cuda::attention,
      .packs_attention = cuda::packs_attention,
      .packed_attention = cuda::packed_attention,
      .attention_part = cuda::attention_part,
      .merge_attention = cuda::merge_attention,
      .silu_mul = cuda::silu_mul,
      .silu = cuda::silu,
      .finish_modulation = cuda::finish_modulation,
      .add_scalar = cuda::add_scalar,
      .convert = cuda::convert,
      .fill_rows = cuda::fill_rows,
      .clear = cuda::clear,
      .embed = cuda::embed,
      .copy_rows = cuda::copy_rows,
      .guide = cuda::guide,
      .cap_norm = cuda::cap_norm,
      .euler_step = cuda::euler_step,
      .philox_normal = cuda::philox_normal,
      .patchify = cuda::patchify,
      .unpatchify = cuda::unpatchify,
      .latents_to_image = cuda::latents_to_image,
      .upsample_nearest_2x = cuda::upsample_nearest_2x,
      .to_pixels = cuda::to_pixels,
  };
  return backend;
}

}  // namespace ops
}  // namespace nostos
