// Owns the 2-D convolution of channels-last images.
#pragma once

#include <cstdint>
#include <memory>

#include "device/context.h"
#include "ops/packed_weight.h"
#include "tensor/tensor.h"

namespace nostos {

/// A filter [out, in, kernel, kernel] in the backend's own layout with its bias. Immutable once packed.
struct Conv2d {
  int64_t in = 0;
  int64_t out = 0;
  int64_t kernel = 0;
  DType dtype = DType::f32;  ///< of the filter and of the inputs it takes
  std::shared_ptr<const PackedWeight> packed;
  ConstView bias;  ///< f32 [out]

  size_t size_in_bytes() const;
};

/// Zero padding in pixels.
struct Padding {
  int64_t top = 0, left = 0, bottom = 0, right = 0;
};

/// How a filter goes over an image.
struct ConvOptions {
  int64_t stride = 1;
  Padding padding = {};
  bool accumulate = false;  ///< whether the result is added to what is there
};

namespace ops {

/// Packs `filter` [out, in, kernel, kernel] (f32 or bf16); `bias` f32 [out] stays owned by the caller. Allocates.
Conv2d pack_conv2d(Context& ctx, ConstView filter, ConstView bias);

/// y = conv(x) + bias, or y += conv(x) + bias if it accumulates.
/// \param x [height, width, in] of filter.dtype. \param y f32 or product_dtype()
/// [(height + pads - kernel) / stride + 1, likewise, out].
void conv2d(Context& ctx, ConstView x, const Conv2d& filter, const ConvOptions& options, View y);

/// Begins what conv2d() of these arguments must have compiled for their shapes, if anything, beside the caller and the
/// other plans: what is planned ahead is compiled in the time of the slowest, not in the sum of all. No memory is
/// touched.
void plan_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const ConvOptions& options, View y);

/// Waits until nothing that plan_conv2d() began is under way. While it is, threads of the library's call the device,
/// which must not be when ranks of one process wait for each other there.
void finish_plans(Context& ctx);

/// Packs `filter` [out, in, 3, 3] for upsampling_conv2d(). Where the device is better served by them, these are the
/// four 2x2 filters of [4 * out, in, 2, 2] that give the four pixels of a doubled one: the taps that would read the
/// same pixel are added, in float32, before they are rounded to the filter's dtype.
Conv2d pack_upsampling_conv2d(Context& ctx, ConstView filter, ConstView bias);

/// \return what upsampling_conv2d() needs as scratch, of filter.dtype.
Shape upsampling_scratch(const Shape& x, const Conv2d& filter, const Padding& padding);

/// y = conv(x, doubled to both sides by repetition) + bias, in all a 3x3 convolution that pads by one.
/// \param x f32 or product_dtype() [rows, width, in]: the rows that y has, between those above and below. \param filter
/// of pack_upsampling_conv2d(). \param padding 1, but 0 at the top and the bottom where x has a row there.
/// \param scratch at least upsampling_scratch(), rank 1. \param y f32 or product_dtype() [2 * rows of its own, 2 *
/// width, out], not overlapping scratch; it may overlap x.
void upsampling_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View scratch, View y);

/// plan_conv2d() for what upsampling_conv2d() runs.
void plan_upsampling_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View scratch,
                            View y);

// What upsampling_conv2d() is made of where Capabilities::phase_multiple allows phases.

/// \return the four filters of pack_upsampling_conv2d(), which fits them.
Conv2d pack_phases(Context& ctx, ConstView filter, ConstView bias);
/// y [2 * height, 2 * width, channels] of its pixels' phases: y[2i + a, 2j + b, c] = x[i + a, j + b, (2a + b) *
/// channels + c], in x's dtype or converted to f32.
void interleave_phases(Context& ctx, ConstView x, View y);
/// interleave_phases(conv2d(x)) in one kernel, for y that does not overlap x, where Capabilities::fused_phase_multiple
/// divides the channels of a phase and y is bf16.
void phases_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View y);

}  // namespace ops
}  // namespace nostos
