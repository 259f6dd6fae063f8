// Checks and dispatches convolutions.
#include "ops/conv.h"

#include "base/error.h"
#include "ops/capabilities.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/patches.h"

namespace nostos {

size_t Conv2d::size_in_bytes() const { return packed ? packed->size_in_bytes() : 0; }

namespace ops {
namespace {

void check_operands(const Context& ctx, ConstView x, const Conv2d& filter, const ConvOptions& options, ConstView y) {
  const auto& [stride, padding, accumulate] = options;
  check(x.dtype() == filter.dtype, "conv2d takes inputs of the filter's dtype");
  check(y.dtype() == DType::f32 || y.dtype() == product_dtype(ctx.device(), filter.dtype),
        "conv2d gives f32 or product_dtype()");
  const int64_t height = (x.shape()[0] + padding.top + padding.bottom - filter.kernel) / stride + 1;
  const int64_t width = (x.shape()[1] + padding.left + padding.right - filter.kernel) / stride + 1;
  check(x.shape()[2] == filter.in && y.shape() == Shape({height, width, filter.out}), "conv2d's shapes do not match");
}

/// \return whether pack_upsampling_conv2d() has made four filters of one.
bool has_phases(const Conv2d& filter) { return filter.kernel == 2; }

bool fuses_phases(Device device, const Conv2d& filter, DType y) {
  const int64_t multiple = capabilities(device).fused_phase_multiple;
  return multiple > 0 && y == DType::bf16 && filter.out % (4 * multiple) == 0;
}

/// upsampling_conv2d(), or its plan if it does not run.
template <bool kRuns>
void upsample_and_convolve(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View scratch,
                           View y) {
  if (y.elements() == 0) return;
  const auto convolve = kRuns ? conv2d : plan_conv2d;
  const Shape shape = upsampling_scratch(x.shape(), filter, padding);
  check(scratch.dtype() == filter.dtype && shape.elements() <= scratch.elements(),
        "upsampling_conv2d needs the scratch that it asks for");
  const View between(scratch.bytes(), filter.dtype, shape);
  if (has_phases(filter)) {
    if (fuses_phases(ctx.device(), filter, y.dtype())) {
      if (!kRuns) return;
      const View copy(scratch.bytes(), filter.dtype, x.shape());  // y may overlap x
      check(copy.size_in_bytes() <= scratch.size_in_bytes(), "upsampling_conv2d needs the scratch that it asks for");
      convert(ctx, x, copy);
      return phases_conv2d(ctx, copy, filter, padding, y);
    }
    convolve(ctx, x, filter, {1, padding}, between);
    if (kRuns) interleave_phases(ctx, between, y);
    return;
  }
  if (kRuns) upsample_nearest_2x(ctx, x, between);
  // Of a doubled row beside the own ones the convolution reads one.
  const int64_t above = 1 - padding.top, below = 1 - padding.bottom;
  convolve(ctx, between.rows(above, shape[0] - above - below), filter, {1, padding}, y);
}

}  // namespace

Conv2d pack_conv2d(Context& ctx, ConstView filter, ConstView bias) {
  check(filter.shape().rank() == 4 && filter.shape()[2] == filter.shape()[3], "a filter is [out, in, kernel, kernel]");
  check(bias.shape() == Shape({filter.shape()[0]}), "a filter's bias has one value an output channel");
  return dispatch<pack_conv2d>(ctx, filter, bias);
}

void conv2d(Context& ctx, ConstView x, const Conv2d& filter, const ConvOptions& options, View y) {
  check_operands(ctx, x, filter, options, y);
  dispatch<conv2d>(ctx, x, filter, options, y);
}

void plan_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const ConvOptions& options, View y) {
  check_operands(ctx, x, filter, options, y);
  if (capabilities(ctx.device()).planned_convolutions) dispatch_to_gpu<plan_conv2d>(ctx, x, filter, options, y);
}

void finish_plans(Context& ctx) {
  if (capabilities(ctx.device()).planned_convolutions) dispatch_to_gpu<finish_plans>(ctx);
}

Conv2d pack_upsampling_conv2d(Context& ctx, ConstView filter, ConstView bias) {
  check(filter.shape().rank() == 4 && filter.shape()[2] == 3 && filter.shape()[3] == 3 &&
            bias.shape() == Shape({filter.shape()[0]}),
        "an upsampling filter is [out, in, 3, 3]");
  const int64_t multiple = capabilities(ctx.device()).phase_multiple;
  const bool by_phases = multiple > 0 && filter.dtype() == DType::bf16 && filter.shape()[1] % multiple == 0 &&
                         4 * filter.shape()[0] % multiple == 0;
  return by_phases ? pack_phases(ctx, filter, bias) : pack_conv2d(ctx, filter, bias);
}

Shape upsampling_scratch(const Shape& x, const Conv2d& filter, const Padding& padding) {
  if (has_phases(filter)) return {x[0] + padding.top + padding.bottom - 1, x[1] + 1, filter.out};
  return {2 * x[0], 2 * x[1], filter.in};
}

void upsampling_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View scratch, View y) {
  upsample_and_convolve<true>(ctx, x, filter, padding, scratch, y);
}

void plan_upsampling_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View scratch,
                            View y) {
  upsample_and_convolve<false>(ctx, x, filter, padding, scratch, y);
}

Conv2d pack_phases(Context& ctx, ConstView filter, ConstView bias) {
  return dispatch_to_gpu<pack_phases>(ctx, filter, bias);
}

void interleave_phases(Context& ctx, ConstView x, View y) { dispatch_to_gpu<interleave_phases>(ctx, x, y); }

void phases_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View y) {
  dispatch_to_gpu<phases_conv2d>(ctx, x, filter, padding, y);
}

}  // namespace ops
}  // namespace nostos
