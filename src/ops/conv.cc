// Checks and dispatches convolutions.
#include "ops/conv.h"

#include "base/error.h"
#include "ops/backend.h"
#include "ops/linear.h"

namespace nostos {

size_t Conv2d::size_in_bytes() const { return packed ? packed->size_in_bytes() : 0; }

namespace ops {

Conv2d pack_conv2d(Context& ctx, ConstView filter, ConstView bias) {
  check(filter.shape().rank() == 4 && filter.shape()[2] == filter.shape()[3], "a filter is [out, in, kernel, kernel]");
  check(bias.shape() == Shape({filter.shape()[0]}), "a filter's bias has one value an output channel");
  return begin(ctx).pack_conv2d(ctx, filter, bias);
}

void conv2d(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
            bool accumulate) {
  check(x.dtype() == filter.dtype, "conv2d takes inputs of the filter's dtype");
  check(y.dtype() == DType::f32 || y.dtype() == product_dtype(ctx.device(), filter.dtype),
        "conv2d gives f32 or product_dtype()");
  const int64_t height = (x.shape()[0] + padding.top + padding.bottom - filter.kernel) / stride + 1;
  const int64_t width = (x.shape()[1] + padding.left + padding.right - filter.kernel) / stride + 1;
  check(x.shape()[2] == filter.in && y.shape() == Shape({height, width, filter.out}), "conv2d's shapes do not match");
  begin(ctx).conv2d(ctx, x, filter, stride, padding, y, accumulate);
}

}  // namespace ops
}  // namespace nostos
