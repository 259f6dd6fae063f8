// Implements convolutions: cuDNN's fused kernels for bf16 images of 8, 16, ... channels, otherwise a direct kernel.
#include "ops/conv.h"

#include "base/error.h"
#include "ops/cuda/conv_kernels.h"
#include "ops/cuda/cudnn.h"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/ops.h"
#include "ops/cuda/workspace.h"

namespace nostos::cuda {
namespace {

/// A filter in the layout of the kernel that serves its channels.
struct DeviceFilter final : PackedWeight {
  Buffer storage;
  bool fused = false;
  int64_t outs = 0;  ///< output channels with those of zeros that the kernel wants added
  Buffer no_bias;    ///< f32 zeros [outs] if there are such

  size_t size_in_bytes() const override { return storage.size_bytes() + no_bias.size_bytes(); }
};

/// Memory for results with channels that are not wanted.
struct ConvState {
  explicit ConvState(Context& ctx) : workspace(ctx) {}
  Workspace workspace;
};

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

void clear(std::byte* memory, size_t bytes, CUstream_st* stream) {
  check_cuda(cudaMemsetAsync(memory, 0, bytes, stream), "cannot clear memory");
}

}  // namespace

Conv2d pack_conv2d(Context& ctx, ConstView filter, ConstView bias) {
  const int64_t out = filter.shape()[0], in = filter.shape()[1], kernel = filter.shape()[2];
  auto packed = std::make_shared<DeviceFilter>();
  packed->fused = filter.dtype() == DType::bf16 && in % kFusedChannels == 0;
  packed->outs = round_up(out, packed->fused ? kFusedChannels : kDirectOuts);
  const size_t weights = static_cast<size_t>(packed->outs * in * kernel * kernel);
  CUstream_st* stream = ctx.stream().handle();
  if (packed->fused) {
    packed->storage = Buffer(ctx.device(), weights * size_bytes(DType::bf16));
    clear(packed->storage.data(), packed->storage.size_bytes(), stream);
    filter_to_channels_last(filter, packed->storage.data(), stream);
    if (packed->outs != out) {
      packed->no_bias = Buffer(ctx.device(), static_cast<size_t>(packed->outs) * sizeof(float));
      clear(packed->no_bias.data(), packed->no_bias.size_bytes(), stream);
    }
  } else {
    packed->storage = Buffer(ctx.device(), weights * sizeof(float));
    filter_to_outputs_last(filter, packed->outs, reinterpret_cast<float*>(packed->storage.data()), stream);
  }
  return {in, out, kernel, filter.dtype(), std::move(packed), bias};
}

void conv2d(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y,
            bool accumulate) {
  if (y.elements() == 0) return;
  const auto& packed = static_cast<const DeviceFilter&>(*filter.packed);
  CUstream_st* stream = ctx.stream().handle();
  if (!packed.fused) {
    direct_convolution(x, reinterpret_cast<const float*>(packed.storage.data()), filter.bias.data<float>(),
                       filter.kernel, stride, padding, accumulate, y, stream);
    return;
  }
  FusedConvolution shape{.height = x.shape()[0],
                         .width = x.shape()[1],
                         .in = filter.in,
                         .out = packed.outs,
                         .kernel = filter.kernel,
                         .stride = stride,
                         .top = padding.top,
                         .left = padding.left,
                         .bottom = padding.bottom,
                         .right = padding.right,
                         .y = y.dtype(),
                         .accumulate = accumulate};
  // cuDNN has no kernel that writes float32 without adding to it: what it adds to is cleared.
  if (packed.outs != filter.out) {
    shape.y = DType::f32;
    shape.accumulate = true;
    const size_t bytes = static_cast<size_t>(y.shape()[0] * y.shape()[1] * packed.outs) * sizeof(float);
    std::byte* sums = ctx.state<ConvState>().workspace.at_least(bytes);
    clear(sums, bytes, stream);
    ctx.state<Cudnn>().run(shape, x.bytes(), packed.storage.data(), packed.no_bias.data(), sums);
    take_channels(reinterpret_cast<const float*>(sums), packed.outs, filter.bias.data<float>(), accumulate, y, stream);
    return;
  }
  if (y.dtype() == DType::f32 && !accumulate) {
    clear(y.bytes(), y.size_in_bytes(), stream);
    shape.accumulate = true;
  }
  ctx.state<Cudnn>().run(shape, x.bytes(), packed.storage.data(), filter.bias.bytes(), y.bytes());
}

}  // namespace nostos::cuda
