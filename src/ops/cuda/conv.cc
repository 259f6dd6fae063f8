// Implements convolutions: on Hopper a kernel of our own for bf16 images, else cuDNN's fused ones for such of 8, 16 and
// so on channels, otherwise a direct kernel.
#include "ops/conv.h"

#include "base/rounding.h"
#include "device/workspace.h"
#include "ops/cuda/conv_kernels.h"
#include "ops/cuda/cudnn.h"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/hopper.h"
#include "ops/device_op.h"

namespace nostos::ops {

using namespace cuda;
namespace {

/// A filter in the layout of the kernel that serves its channels.
struct DeviceFilter final : PackedWeight {
  bool fused = false;
  int64_t outs = 0;        ///< output channels with those of zeros that the kernel wants added
  Buffer own_bias;         ///< f32 [outs]: zeros if there are such, or the biases of phases
  Buffer padded;           ///< where channels do not come in eights, for Hopper's kernel: bf16 with channels of zeros
  int64_t padded_ins = 0;  ///< channels of these

  size_t size_in_bytes() const override { return storage.size_bytes() + own_bias.size_bytes() + padded.size_bytes(); }
};

/// Memory for results with channels that are not wanted.
struct ConvWorkspace : Workspace {
  using Workspace::Workspace;
};

/// Memory for images with channels of zeros.
struct PaddedImage : Workspace {
  using Workspace::Workspace;
};

void clear(std::byte* memory, size_t bytes, CUstream_st* stream) {
  check_cuda(cudaMemsetAsync(memory, 0, bytes, stream), "cannot clear memory");
}

/// \return how cuDNN runs the convolution. It has no kernel that writes float32 without adding to it: what it adds to
/// is cleared first. Channels that are not wanted are float32, too.
FusedConvolution fused_shape(ConstView x, const Conv2d& filter, const DeviceFilter& packed, const ConvOptions& options,
                             DType y) {
  const Padding& padding = options.padding;
  const DType sums = packed.outs == filter.out ? y : DType::f32;
  return {.height = x.shape()[0],
          .width = x.shape()[1],
          .in = filter.in,
          .out = packed.outs,
          .kernel = filter.kernel,
          .stride = options.stride,
          .top = padding.top,
          .left = padding.left,
          .bottom = padding.bottom,
          .right = padding.right,
          .y = sums,
          .accumulate = options.accumulate || sums == DType::f32};
}

/// \return whether the kernel of our own serves: results in bf16 with all of their channels wanted.
bool is_hoppers(Device device, const Conv2d& filter, const DeviceFilter& packed, int64_t stride, DType y) {
  return (packed.padded_ins > 0 || (packed.fused && packed.outs == filter.out)) && stride == 1 &&
         filter.kernel <= kMostHopperTaps && y == DType::bf16 && has_hopper_kernels(device);
}

/// \return x with channels of zeros up to `ins`.
ConstView padded(Context& ctx, ConstView x, int64_t ins) {
  const Shape shape{x.shape()[0], x.shape()[1], ins};
  std::byte* const memory =
      ctx.state<PaddedImage>().at_least(static_cast<size_t>(shape.elements()) * size_bytes(DType::bf16));
  pad_channels(x, ins, memory, ctx.stream().handle());
  return {memory, DType::bf16, shape};
}

HopperFilter hopper_filter(const Conv2d& filter, bool has_phases) {
  const auto& packed = static_cast<const DeviceFilter&>(*filter.packed);
  const Buffer& weights = packed.padded_ins > 0 ? packed.padded : packed.storage;
  return {weights.data(), filter.bias.data<float>(), filter.kernel, has_phases};
}

}  // namespace

Conv2d run(OnCuda<pack_conv2d>, Context& ctx, ConstView filter, ConstView bias) {
  const int64_t out = filter.shape()[0], in = filter.shape()[1], kernel = filter.shape()[2];
  auto packed = std::make_shared<DeviceFilter>();
  const bool is_bf16 = filter.dtype() == DType::bf16;
  packed->fused = is_bf16 && in % kFusedChannels == 0;
  packed->outs = round_up(out, packed->fused ? kFusedChannels : kDirectOuts);
  const size_t weights = static_cast<size_t>(packed->outs * in * kernel * kernel);
  CUstream_st* stream = ctx.stream().handle();
  if (packed->fused) {
    packed->storage = Buffer(ctx.device(), weights * size_bytes(DType::bf16));
    clear(packed->storage.data(), packed->storage.size_bytes(), stream);
    filter_to_channels_last(filter, in, packed->storage.data(), stream);
    if (packed->outs != out) {
      packed->own_bias = Buffer(ctx.device(), static_cast<size_t>(packed->outs) * sizeof(float));
      clear(packed->own_bias.data(), packed->own_bias.size_bytes(), stream);
    }
  } else {
    packed->storage = Buffer(ctx.device(), weights * sizeof(float));
    filter_to_outputs_last(filter, packed->outs, reinterpret_cast<float*>(packed->storage.data()), stream);
  }
  if (is_bf16 && !packed->fused && out % kFusedChannels == 0 && has_hopper_kernels(ctx.device())) {
    packed->padded_ins = round_up(in, kFusedChannels);
    packed->padded =
        Buffer(ctx.device(), static_cast<size_t>(out * packed->padded_ins * kernel * kernel) * size_bytes(DType::bf16));
    clear(packed->padded.data(), packed->padded.size_bytes(), stream);
    filter_to_channels_last(filter, packed->padded_ins, packed->padded.data(), stream);
  }
  return {in, out, kernel, filter.dtype(), std::move(packed), bias};
}

Conv2d run(OnCuda<pack_phases>, Context& ctx, ConstView filter, ConstView bias) {
  const int64_t outs = 4 * filter.shape()[0], in = filter.shape()[1];
  auto packed = std::make_shared<DeviceFilter>();
  packed->fused = true;
  packed->outs = outs;
  packed->storage = Buffer(ctx.device(), static_cast<size_t>(outs * in * 2 * 2) * size_bytes(DType::bf16));
  packed->own_bias = Buffer(ctx.device(), static_cast<size_t>(outs) * sizeof(float));
  filter_to_phases(filter, packed->storage.data(), ctx.stream().handle());
  const size_t bytes = bias.size_in_bytes();
  for (size_t phase = 0; phase < 4; ++phase) {
    check_cuda(cudaMemcpyAsync(packed->own_bias.data() + phase * bytes, bias.bytes(), bytes, cudaMemcpyDefault,
                               ctx.stream().handle()),
               "cannot copy a bias");
  }
  const View repeated(packed->own_bias.data(), DType::f32, {outs});
  return {in, outs, 2, filter.dtype(), std::move(packed), repeated};
}

void run(OnCuda<conv2d>, Context& ctx, ConstView x, const Conv2d& filter, const ConvOptions& options, View y) {
  if (y.elements() == 0) return;
  const bool accumulate = options.accumulate;
  const auto& packed = static_cast<const DeviceFilter&>(*filter.packed);
  CUstream_st* stream = ctx.stream().handle();
  if (is_hoppers(ctx.device(), filter, packed, options.stride, y.dtype())) {
    if (packed.padded_ins > 0) x = padded(ctx, x, packed.padded_ins);
    return hopper_convolution(ctx, x, hopper_filter(filter, false), options.padding, accumulate, y);
  }
  if (!packed.fused) {
    const auto* weights = reinterpret_cast<const float*>(packed.storage.data());
    return direct_convolution(x, {weights, filter.bias.data<float>(), filter.kernel}, options, y, stream);
  }
  const FusedConvolution shape = fused_shape(x, filter, packed, options, y.dtype());
  if (packed.outs != filter.out) {
    const size_t bytes = static_cast<size_t>(y.shape()[0] * y.shape()[1] * packed.outs) * sizeof(float);
    std::byte* sums = ctx.state<ConvWorkspace>().at_least(bytes);
    clear(sums, bytes, stream);
    ctx.state<Cudnn>().run(shape, x.bytes(), packed.storage.data(), packed.own_bias.data(), sums);
    take_channels(reinterpret_cast<const float*>(sums), packed.outs, filter.bias.data<float>(), accumulate, y, stream);
    return;
  }
  if (shape.accumulate && !accumulate) clear(y.bytes(), y.size_in_bytes(), stream);
  ctx.state<Cudnn>().run(shape, x.bytes(), packed.storage.data(), filter.bias.bytes(), y.bytes());
}

void run(OnCuda<plan_conv2d>, Context& ctx, ConstView x, const Conv2d& filter, const ConvOptions& options, View y) {
  const auto& packed = static_cast<const DeviceFilter&>(*filter.packed);
  if (y.elements() == 0 || !packed.fused || is_hoppers(ctx.device(), filter, packed, options.stride, y.dtype())) return;
  ctx.state<Cudnn>().plan(fused_shape(x, filter, packed, options, y.dtype()));
}

void run(OnCuda<finish_plans>, Context& ctx) { ctx.state<Cudnn>().finish_plans(); }

void run(OnCuda<phases_conv2d>, Context& ctx, ConstView x, const Conv2d& filter, const Padding& padding, View y) {
  hopper_convolution(ctx, x, hopper_filter(filter, true), padding, false, y);
}

void run(OnCuda<interleave_phases>, Context& ctx, ConstView x, View y) { interleave(x, y, ctx.stream().handle()); }

}  // namespace nostos::ops
