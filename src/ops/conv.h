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

namespace ops {

/// Packs `filter` [out, in, kernel, kernel] (f32 or bf16); `bias` f32 [out] stays owned by the caller. Allocates.
Conv2d pack_conv2d(Context& ctx, ConstView filter, ConstView bias);

/// y = conv(x) + bias, or y += conv(x) + bias if `accumulate`.
/// \param x [height, width, in] of filter.dtype. \param y f32 or product_dtype()
/// [(height + pads - kernel) / stride + 1, likewise, out].
void conv2d(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
            bool accumulate = false);

}  // namespace ops
}  // namespace nostos
