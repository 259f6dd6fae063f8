// Implements convolution on oneDNN, channels last, one output row at a time.
//
// oneDNN's own result for a row depends on how many rows an image has (it picks its blocking by the size), so every
// row is a convolution of its own: the same primitive for each, run by one thread, whatever the number of rows, ranks
// and threads.
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "ops/conv.h"
#include "ops/cpu/onednn.h"
#include "ops/cpu/parallel.h"
#include "ops/device_op.h"

namespace nostos {
namespace cpu {
namespace {

/// A filter in the layout that oneDNN chose for a typical row.
struct PackedFilter final : PackedWeight {
  dnnl::memory::desc desc;
};

const PackedFilter& packed_of(const Conv2d& w) { return static_cast<const PackedFilter&>(*w.packed); }

using Tag = dnnl::memory::format_tag;
using Dims = dnnl::memory::dims;

/// Filters are packed for rows of this width, and narrower rows are padded to it: for some narrow ones oneDNN has only
/// its reference kernel with that layout (f32, widths up to 56 of 1 to 1100, measured with oneDNN 2.6.3).
constexpr int64_t kTypicalWidth = 64;

dnnl::convolution_forward::primitive_desc describe(const OneDnn& dnn, const OneDnn::ConvKey& key,
                                                   const dnnl::memory::desc& filter) {
  const auto type = dnnl_type(key.dtype), f32 = dnnl::memory::data_type::f32;
  const int64_t out_width = (key.width + key.left + key.right - key.kernel) / key.stride + 1;
  const dnnl::convolution_forward::desc desc(
      dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      dnnl::memory::desc(Dims{1, key.in, key.kernel, key.width}, type, Tag::nhwc), filter,
      dnnl::memory::desc(Dims{key.out}, f32, Tag::a),
      dnnl::memory::desc(Dims{1, key.out, 1, out_width}, f32, Tag::nhwc), Dims{key.stride, key.stride},
      Dims{0, key.left}, Dims{0, key.right});
  return dnnl::convolution_forward::primitive_desc(desc, make_attributes(key.accumulate), dnn.engine());
}

}  // namespace

std::shared_ptr<const dnnl::convolution_forward> OneDnn::convolution(const ConvKey& key,
                                                                     const dnnl::memory::desc& filter) {
  if (const auto* known = convolutions_.find(key)) return *known;
  return with_dnnl_errors("making a convolution", [&] {
    const SingleThreadScope scope(true);
    const dnnl::convolution_forward::primitive_desc made = describe(*this, key, filter);
    reserve_scratchpads(made.scratchpad_desc().get_size());
    return convolutions_.insert(key, std::make_shared<const dnnl::convolution_forward>(made));
  });
}

}  // namespace cpu

namespace ops {

using namespace cpu;

Conv2d run(OnCpu<pack_conv2d>, Context& ctx, ConstView filter, ConstView bias) {
  OneDnn& dnn = ctx.state<OneDnn>();
  const Shape& shape = filter.shape();
  Conv2d made{shape[1], shape[0], shape[2], filter.dtype(), nullptr, bias};
  auto packed = std::make_shared<PackedFilter>();
  with_dnnl_errors("packing a filter", [&] {
    const SingleThreadScope scope(true);
    const int64_t pad = made.kernel / 2;
    const auto type = dnnl_type(made.dtype);
    const Dims dims{made.out, made.in, made.kernel, made.kernel};
    const OneDnn::ConvKey key{kTypicalWidth, made.in, made.out, made.kernel, 1, pad, pad, made.dtype, false};
    packed->desc = describe(dnn, key, dnnl::memory::desc(dims, type, Tag::any)).weights_desc();
    packed->storage = Buffer(ctx.device(), packed->desc.get_size());
    dnnl::memory from(dnnl::memory::desc(dims, type, Tag::oihw), dnn.engine(), const_cast<std::byte*>(filter.bytes()));
    dnnl::memory to(packed->desc, dnn.engine(), packed->storage.data());
    dnnl::reorder(from, to).execute(dnn.stream(), from, to);
  });
  made.packed = std::move(packed);
  return made;
}

void run(OnCpu<conv2d>, Context& ctx, ConstView x, const Conv2d& filter, const ConvOptions& options, View y) {
  const int64_t stride = options.stride;
  const Padding padding = options.padding;
  const bool accumulate = options.accumulate;
  OneDnn& dnn = ctx.state<OneDnn>();
  const int64_t height = x.shape()[0], width = x.shape()[1], out_height = y.shape()[0];
  const int64_t run_width = std::max(width, kTypicalWidth);
  const OneDnn::ConvKey key{run_width,    filter.in,     filter.out,   filter.kernel, stride,
                            padding.left, padding.right, filter.dtype, accumulate};
  const auto primitive = dnn.convolution(key, packed_of(filter).desc);
  const OneDnn::ConvMemory memory =
      dnn.convolution_memory(*primitive, packed_of(filter).storage.data(), filter.bias.bytes());
  const size_t row_bytes = static_cast<size_t>(width * filter.in) * size_bytes(filter.dtype);
  const size_t run_row_bytes = static_cast<size_t>(run_width * filter.in) * size_bytes(filter.dtype);
  const size_t window_bytes = static_cast<size_t>(filter.kernel) * run_row_bytes;
  const size_t out_row_bytes = static_cast<size_t>(y.shape()[1] * filter.out) * sizeof(float);
  const size_t scratch_bytes = window_bytes + memory.target.get_size();
  for (int thread = 0; thread < ctx.threads(); ++thread) dnn.workspace(thread, scratch_bytes);
  parallel_tasks(ctx, out_height, [&](int64_t row) {
    const int64_t top = row * stride - padding.top;
    const bool narrow = run_width > width, over_the_edge = top < 0 || top + filter.kernel > height;
    const auto input_row = [&](int64_t at) { return x.bytes() + static_cast<size_t>(at) * row_bytes; };
    std::byte* out = y.bytes() + static_cast<size_t>(row) * out_row_bytes;
    std::byte* padded = dnn.workspace(omp_get_thread_num(), scratch_bytes);
    const std::byte* window = padded;
    if (narrow || over_the_edge) {
      std::memset(padded, 0, window_bytes);
      for (int64_t tap = std::max<int64_t>(0, -top); tap < std::min(filter.kernel, height - top); ++tap)
        std::memcpy(padded + static_cast<size_t>(tap) * run_row_bytes, input_row(top + tap), row_bytes);
    } else {
      window = input_row(top);
    }
    std::byte* run_out = narrow ? padded + window_bytes : out;
    if (narrow && accumulate) std::memcpy(run_out, out, out_row_bytes);
    dnn.run_convolution(*primitive, memory, window, run_out);
    if (narrow) std::memcpy(out, run_out, out_row_bytes);
  });
}

}  // namespace ops
}  // namespace nostos
