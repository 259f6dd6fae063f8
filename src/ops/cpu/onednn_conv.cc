// Implements convolution on oneDNN, channels last.
#include "ops/cpu/onednn.h"
#include "ops/cpu/ops.h"

namespace nostos::cpu {

/// A filter in the layout that oneDNN chose for a typical image.
struct PackedFilter {
  dnnl::memory::desc desc;
  Buffer storage;
};

size_t packed_bytes(const PackedFilter& packed) { return packed.storage.size_bytes(); }

namespace {

using Tag = dnnl::memory::format_tag;
using Dims = dnnl::memory::dims;

dnnl::convolution_forward::primitive_desc describe(const OneDnn& dnn, const OneDnn::ConvKey& key, const dnnl::memory::desc& filter) {
  const auto& [height, width, in, out, kernel, stride, top, left, bottom, right] = key.geometry;
  const auto type = dnnl_type(key.dtype), f32 = dnnl::memory::data_type::f32;
  const int64_t out_height = (height + top + bottom - kernel) / stride + 1, out_width = (width + left + right - kernel) / stride + 1;
  dnnl::primitive_attr attributes;
  if (key.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.f);
    attributes.set_post_ops(sum);
  }
  const dnnl::convolution_forward::desc desc(
      dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      dnnl::memory::desc(Dims{1, in, height, width}, type, Tag::nhwc), filter, dnnl::memory::desc(Dims{out}, f32, Tag::a),
      dnnl::memory::desc(Dims{1, out, out_height, out_width}, f32, Tag::nhwc), Dims{stride, stride}, Dims{top, left},
      Dims{bottom, right});
  return dnnl::convolution_forward::primitive_desc(desc, attributes, dnn.engine());
}

OneDnn::ConvKey key_of(int64_t height, int64_t width, int64_t in, int64_t out, int64_t kernel, int64_t stride, const Padding& pad,
                       DType dtype, bool accumulate) {
  return {{height, width, in, out, kernel, stride, pad.top, pad.left, pad.bottom, pad.right}, dtype, accumulate};
}

}  // namespace

const dnnl::primitive& OneDnn::convolution(const ConvKey& key, const dnnl::memory::desc& filter) {
  const auto found = convolutions_.find(key);
  if (found != convolutions_.end()) return found->second;
  return with_dnnl_errors("making a convolution", [&]() -> const dnnl::primitive& {
    return convolutions_.emplace(key, dnnl::convolution_forward(describe(*this, key, filter))).first->second;
  });
}

Conv2d pack_conv2d(Context& ctx, ConstView filter, ConstView bias) {
  OneDnn& dnn = ctx.state<OneDnn>();
  const Shape& shape = filter.shape();
  Conv2d made{shape[1], shape[0], shape[2], filter.dtype(), nullptr, bias};
  auto packed = std::make_shared<PackedFilter>();
  with_dnnl_errors("packing a filter", [&] {
    constexpr int64_t kTypicalSide = 64;
    const int64_t pad = made.kernel / 2;
    const auto type = dnnl_type(made.dtype);
    const Dims dims{made.out, made.in, made.kernel, made.kernel};
    const auto key = key_of(kTypicalSide, kTypicalSide, made.in, made.out, made.kernel, 1, {pad, pad, pad, pad}, made.dtype, false);
    packed->desc = describe(dnn, key, dnnl::memory::desc(dims, type, Tag::any)).weights_desc();
    packed->storage = Buffer(ctx.device(), packed->desc.get_size());
    dnnl::memory from(dnnl::memory::desc(dims, type, Tag::oihw), dnn.engine(), const_cast<std::byte*>(filter.bytes()));
    dnnl::memory to(packed->desc, dnn.engine(), packed->storage.data());
    dnnl::reorder(from, to).execute(dnn.stream(), from, to);
  });
  made.packed = std::move(packed);
  return made;
}

void conv2d(Context& ctx, ConstView x, const Conv2d& filter, int64_t stride, const Padding& padding, View y, bool accumulate) {
  OneDnn& dnn = ctx.state<OneDnn>();
  const auto key = key_of(x.shape()[0], x.shape()[1], filter.in, filter.out, filter.kernel, stride, padding, filter.dtype, accumulate);
  const dnnl::primitive& primitive = dnn.convolution(key, filter.packed->desc);
  const auto type = dnnl_type(filter.dtype), f32 = dnnl::memory::data_type::f32;
  with_dnnl_errors("a convolution", [&] {
    const auto& engine = dnn.engine();
    primitive.execute(
        dnn.stream(),
        {{DNNL_ARG_SRC, dnnl::memory(dnnl::memory::desc(Dims{1, filter.in, x.shape()[0], x.shape()[1]}, type, Tag::nhwc), engine,
                                     const_cast<std::byte*>(x.bytes()))},
         {DNNL_ARG_WEIGHTS, dnnl::memory(filter.packed->desc, engine, filter.packed->storage.data())},
         {DNNL_ARG_BIAS, dnnl::memory(dnnl::memory::desc(Dims{filter.out}, f32, Tag::a), engine,
                                      const_cast<std::byte*>(filter.bias.bytes()))},
         {DNNL_ARG_DST, dnnl::memory(dnnl::memory::desc(Dims{1, filter.out, y.shape()[0], y.shape()[1]}, f32, Tag::nhwc), engine,
                                     y.bytes())}});
  });
}

}  // namespace nostos::cpu
