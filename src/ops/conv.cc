// Checks and dispatches convolutions.
#include "ops/conv.h"

#include "base/error.h"
#include "ops/backend.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/patches.h"

namespace nostos {

size_t Conv2d::size_in_bytes() const { return packed ? packed->size_in_bytes() : 0; }

namespace ops {
namespace {

void check_operands(const Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding,
                    ConstView y) {
  check(x.dtype() == filter.dtype, "conv2d takes inputs of the filter's dtype");
  check(y.dtype() == DType::f32 || y.dtype() == product_dtype(ctx.device(), filter.dtype),
        "conv2d gives f32 or product_dtype()");
  const int64_t height = (x.shape()[0] + padding.top + padding.bottom - filter.kernel) / stride + 1;
  const int64_t width = (x.shape()[1] + padding.left + padding.right - filter.kernel) / stride + 1;
  check(x.shape()[2] == filter.in && y.shape() == Shape({height, width, filter.out}), "conv2d's shapes do not match");
}

/// \return whether pack_upsampling_conv2d() has made four filters of one.
bool has_phases(const Conv2d& filter) { return filter.kernel == 2; }

/// upsampling_conv2d(), or its plan if not `runs`.
void upsample_and_convolve(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View scratch,
                           View y, bool runs) {
  if (y.elements() == 0) return;
  const auto convolve = runs ? conv2d : plan_conv2d;
  const Shape shape = upsampling_scratch(x.shape(), filter, padding);
  check(scratch.dtype() == filter.dtype && shape.elements() <= scratch.elements(),
        "upsampling_conv2d needs the scratch that it asks for");
  const View between(scratch.bytes(), filter.dtype, shape);
  if (has_phases(filter)) {
    const Backend& backend = begin(ctx);
    if (backend.fuses_phases != nullptr && backend.fuses_phases(ctx.device(), filter, y.dtype())) {
      if (!runs) return;
      const View copy(scratch.bytes(), filter.dtype, x.shape());  // y may overlap x
      check(copy.size_in_bytes() <= scratch.size_in_bytes(), "upsampling_conv2d needs the scratch that it asks for");
      convert(ctx, x, copy);
      return backend.phases_conv2d(ctx, copy, filter, padding, y);
    }
    convolve(ctx, x, filter, 1, padding, between, false);
    if (runs) backend.interleave_phases(ctx, between, y);
    return;
  }
  if (runs) upsample_nearest_2x(ctx, x, between);
  // Of a doubled row beside the own ones the convolution reads one.
  const int64_t above = 1 - padding.top, below = 1 - padding.bottom;
  convolve(ctx, between.rows(above, shape[0] - above - below), filter, 1, padding, y, false);
}

}  // namespace

Conv2d pack_conv2d(Context& ctx, ConstView filter, ConstView bias) {
  check(filter.shape().rank() == 4 && filter.shape()[2] == filter.shape()[3], "a filter is [out, in, kernel, kernel]");
  check(bias.shape() == Shape({filter.shape()[0]}), "a filter's bias has one value an output channel");
  return begin(ctx).pack_conv2d(ctx, filter, bias);
}

void conv2d(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
            bool accumulate) {
  check_operands(ctx, x, filter, stride, padding, y);
  begin(ctx).conv2d(ctx, x, filter, stride, padding, y, accumulate);
}

void plan_conv2d(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
                 bool accumulate) {
  check_operands(ctx, x, filter, stride, padding, y);
  const auto plan = begin(ctx).plan_conv2d;
  if (plan != nullptr) plan(ctx, x, filter, stride, padding, y, accumulate);
}

void finish_plans(Context& ctx) {
  const auto finish = begin(ctx).finish_plans;
  if (finish != nullptr) finish(ctx);
}

Conv2d pack_upsampling_conv2d(Context& ctx, ConstView filter, ConstView bias) {
  check(filter.shape().rank() == 4 && filter.shape()[2] == 3 && filter.shape()[3] == 3 &&
            bias.shape() == Shape({filter.shape()[0]}),
        "an upsampling filter is [out, in, 3, 3]");
  const auto pack = begin(ctx).pack_phases;
  if (pack != nullptr) {
    Conv2d phases = pack(ctx, filter, bias);
    if (phases.packed) return phases;
  }
  return pack_conv2d(ctx, filter, bias);
}

Shape upsampling_scratch(const Shape& x, const Conv2d& filter, const Padding& padding) {
  if (has_phases(filter)) return {x[0] + padding.top + padding.bottom - 1, x[1] + 1, filter.out};
  return {2 * x[0], 2 * x[1], filter.in};
}

void upsampling_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View scratch, View y) {
  upsample_and_convolve(ctx, x, filter, padding, scratch, y, true);
}

void plan_upsampling_conv2d(Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View scratch,
                            View y) {
  upsample_and_convolve(ctx, x, filter, padding, scratch, y, false);
}

}  // namespace ops
}  // namespace nostos
