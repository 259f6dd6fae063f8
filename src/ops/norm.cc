// Checks and dispatches normalisations.
#include "ops/norm.h"

#include "base/error.h"
#include "ops/capabilities.h"
#include "ops/dispatch.h"
#include "ops/int8_linear.h"

namespace nostos::ops {

void rms_norm(Context& ctx, ConstView x, ConstView weight, ConstView scale, float eps, View out) {
  check(x.shape().rank() == 2 && x.shape() == out.shape(), "rms_norm keeps the shape");
  check(weight.shape() == Shape({x.shape()[1]}) && (!scale || scale.elements() == x.shape()[1]),
        "rms_norm's weights match the channels");
  dispatch<rms_norm>(ctx, x, weight, scale, eps, out);
}

void layer_norm_scaled(Context& ctx, ConstView x, ConstView scale, float eps, View out) {
  check(x.shape().rank() == 2 && x.shape() == out.shape(), "layer_norm_scaled keeps the shape");
  check(scale.elements() == x.shape()[1], "layer_norm_scaled's scale matches the channels");
  dispatch<layer_norm_scaled>(ctx, x, scale, eps, out);
}

namespace {

bool fits(Device device, const NextNorm& next, const Shape& x) {
  const auto is_row = [&](ConstView row) { return !row || row.elements() == x[1]; };
  if (next.scales && !(next.out.dtype() == DType::i8 && next.weight && next.scales.dtype() == DType::f32 &&
                       next.scales.elements() == x[0] && rounds_next_norm(device, x[1])))
    return false;
  return !next.out || (next.out.shape() == x && is_row(next.weight) && is_row(next.scale));
}

}  // namespace

bool rounds_next_norm(Device device, int64_t channels) {
  return channels % kWideRotation == 0 && channels <= capabilities(device).most_rounded_channels;
}

void add_gated_rms_norm(Context& ctx, ConstView projected, const GatedNorm& norm, View x, const NextNorm& next) {
  check(x.shape().rank() == 2 && x.shape() == projected.shape(), "add_gated_rms_norm keeps the shape");
  check(norm.weight.shape() == Shape({x.shape()[1]}) && (!norm.gate || norm.gate.elements() == x.shape()[1]),
        "add_gated_rms_norm's weights match the channels");
  check(fits(ctx.device(), next, x.shape()), "the norm after add_gated_rms_norm has its shape");
  dispatch<add_gated_rms_norm>(ctx, projected, norm, x, next);
}

void add_gated(Context& ctx, ConstView projected, const GatedBias& by, View x, const NextNorm& next) {
  check(x.shape().rank() == 2 && x.shape() == projected.shape(), "add_gated keeps the shape");
  check(by.bias.elements() == x.shape()[1] && by.gate.elements() == x.shape()[1],
        "add_gated's bias and gate match the channels");
  check(fits(ctx.device(), next, x.shape()), "the norm after add_gated has its shape");
  dispatch<add_gated>(ctx, projected, by, x, next);
}

namespace {

bool fits(const AdaptiveNorm& norm, int64_t channels) {
  return norm.scale.elements() == channels && norm.shift.elements() == channels;
}

}  // namespace

void adaptive_layer_norm(Context& ctx, ConstView x, const AdaptiveNorm& norm, View out) {
  check(x.shape().rank() == 2 && x.shape() == out.shape(), "adaptive_layer_norm keeps the shape");
  check(fits(norm, x.shape()[1]), "adaptive_layer_norm's scale and shift match the channels");
  dispatch<adaptive_layer_norm>(ctx, x, norm, out);
}

void add_gated_adaptive_norm(Context& ctx, ConstView projected, ConstView gate, View x, const AdaptiveNorm& next,
                             View out) {
  check(x.shape().rank() == 2 && x.shape() == projected.shape(), "add_gated_adaptive_norm keeps the shape");
  check(gate.elements() == x.shape()[1], "add_gated_adaptive_norm's gate matches the channels");
  check(!out || (out.shape() == x.shape() && fits(next, x.shape()[1])),
        "the norm after add_gated_adaptive_norm has its shape");
  dispatch<add_gated_adaptive_norm>(ctx, projected, gate, x, next, out);
}

void group_norm_row_sums(Context& ctx, ConstView x, View sums) {
  check(x.shape().rank() == 3 && sums.shape().rank() == 3 && sums.shape()[0] == x.shape()[0] && sums.shape()[2] == 2 &&
            x.shape()[2] % sums.shape()[1] == 0,
        "group_norm_row_sums' shapes do not match");
  dispatch<group_norm_row_sums>(ctx, x, sums);
}

void group_norm_apply(Context& ctx, ConstView x, ConstView sums, int64_t row_pixels, const GroupNorm& norm, View out) {
  check(x.shape().rank() == 3 && x.shape() == out.shape() && sums.shape().rank() == 3 && sums.shape()[2] == 2 &&
            x.shape()[2] % sums.shape()[1] == 0,
        "group_norm_apply's shapes do not match");
  check(norm.weight.elements() == x.shape()[2] && norm.bias.elements() == x.shape()[2],
        "group_norm_apply's weights match the channels");
  dispatch<group_norm_apply>(ctx, x, sums, row_pixels, norm, out);
}

}  // namespace nostos::ops
