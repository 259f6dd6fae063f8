// Implements the product with a packed weight on oneDNN.
#include <omp.h>

#include <cstring>

#include "ops/cpu/matmul.h"
#include "ops/cpu/onednn.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/stored_weight.h"
#include "ops/device_op.h"
#include "ops/linear.h"

namespace nostos {
namespace ops {

using namespace cpu;

namespace {

/// A weight in oneDNN's blocked layout, or plain [out, in] where fixed blocks are used.
struct PackedMatrix final : PackedWeight {
  bool blocked = false;
};

const PackedMatrix& packed_of(const Linear& w) { return static_cast<const PackedMatrix&>(*w.packed); }

}  // namespace

Capabilities run(OnCpu<capabilities>, Device) {
  return {.bf16_products = OneDnn::has_bf16(), .int8_products = OneDnn::has_int8(), .int8_attention = true};
}

Linear run(OnCpu<pack_linear>, Context& ctx, ConstView weight) {
  OneDnn& dnn = ctx.state<OneDnn>();
  Linear made{weight.shape()[1], weight.shape()[0], weight.dtype(), nullptr};
  auto packed = std::make_shared<PackedMatrix>();
  packed->blocked = dnn.rows_independent(weight.dtype());
  if (packed->blocked) {
    with_dnnl_errors("packing a weight", [&] {
      const dnnl::memory::desc plain({made.in, made.out}, dnnl_type(made.input), dnnl::memory::format_tag::ba);
      const dnnl::memory::desc blocked = packed_matrix_desc(dnn, made.in, made.out, made.input);
      packed->storage = Buffer(ctx.device(), blocked.get_size());
      dnnl::memory from(plain, dnn.engine(), const_cast<std::byte*>(weight.bytes()));
      dnnl::memory to(blocked, dnn.engine(), packed->storage.data());
      dnnl::reorder(from, to).execute(dnn.stream(), from, to);
    });
  } else {
    packed->storage = Buffer(ctx.device(), weight.size_in_bytes());
    std::memcpy(packed->storage.data(), weight.bytes(), weight.size_in_bytes());
  }
  made.packed = std::move(packed);
  return made;
}

namespace {

/// Fixed blocks of kBlockRows rows and kBlockColumns columns, each by one thread: the last rows are padded with zeros
/// to a whole block, so that every row meets the same kernel whatever the number of rows and threads.
void linear_in_blocks(Context& ctx, OneDnn& dnn, ConstView x, const WeightPart& w, bool accumulate) {
  const int64_t rows = x.shape()[0];
  const int64_t row_blocks = (rows + kBlockRows - 1) / kBlockRows,
                column_blocks = (w.out + kBlockColumns - 1) / kBlockColumns;
  const size_t element = size_bytes(x.dtype());
  const size_t padded_x_bytes = static_cast<size_t>(kBlockRows * w.in) * element;
  const size_t padded_y_bytes = static_cast<size_t>(kBlockRows * kBlockColumns) * sizeof(float);
  const auto key = [&](int64_t columns) {
    return OneDnn::MatmulKey{kBlockRows, w.in,      columns,           1,     w.in, w.in,
                             columns,    x.dtype(), w.bias != nullptr, false, true};
  };
  const OneDnn::MatmulKey block_key = key(std::min(kBlockColumns, w.out));
  const OneDnn::MatmulKey last_key = key(w.out - (column_blocks - 1) * kBlockColumns);
  const auto block_product = dnn.matmul(block_key), last_product = dnn.matmul(last_key);
  for (int thread = 0; thread < ctx.threads(); ++thread) dnn.workspace(thread, padded_x_bytes + padded_y_bytes);
  parallel_tasks(ctx, row_blocks * column_blocks, [&](int64_t task) {
    const int64_t first = task / column_blocks * kBlockRows, count = std::min(kBlockRows, rows - first);
    const int64_t left = task % column_blocks * kBlockColumns, columns = std::min(kBlockColumns, w.out - left);
    std::byte* scratch = dnn.workspace(omp_get_thread_num(), padded_x_bytes + padded_y_bytes);
    const std::byte* a = x.bytes() + static_cast<size_t>(first * w.in) * element;
    if (count < kBlockRows) {
      std::memset(scratch, 0, padded_x_bytes);
      std::memcpy(scratch, a, static_cast<size_t>(count * w.in) * element);
      a = scratch;
    }
    float* block = reinterpret_cast<float*>(scratch + padded_x_bytes);
    const bool is_last = left + columns == w.out;
    dnn.run_matmul(is_last ? *last_product : *block_product, is_last ? last_key : block_key, a,
                   w.rows + static_cast<size_t>(left * w.stride) * element, w.bias == nullptr ? nullptr : w.bias + left,
                   block);
    for (int64_t i = 0; i < count; ++i) {
      float* to = w.y + (first + i) * w.y_stride + left;
      for (int64_t j = 0; j < columns; ++j) to[j] = block[i * columns + j] + (accumulate ? to[j] : 0.f);
    }
  });
}

constexpr int64_t kLine = 64;  // bytes
static_assert(kPartRows % kBlockColumns == 0, "a part's blocks are the whole weight's");

/// The part of a kept weight that a context's product is at, as oneDNN wants it.
struct KeptBlocks : GrowingBuffer {
  explicit KeptBlocks(Context&) {}
};
/// What the product with it gives.
struct KeptOutputs : GrowingBuffer {
  explicit KeptOutputs(Context&) {}
};

/// Brings a part of a kept weight into the layout of `product`.
const std::byte* blocks_of(Context& ctx, OneDnn& dnn, const dnnl::matmul& product, const WeightPart& w, DType dtype) {
  return with_dnnl_errors("packing a part of a weight", [&] {
    const dnnl::memory::desc plain({w.in, w.out}, dnnl_type(dtype), dnnl::memory::dims{1, w.stride});
    const dnnl::memory::desc blocked = OneDnn::weights_of(product);
    std::byte* const blocks = ctx.state<KeptBlocks>().at_least(blocked.get_size());
    dnnl::memory from(plain, dnn.engine(), const_cast<std::byte*>(w.rows)), to(blocked, dnn.engine(), blocks);
    dnnl::reorder(from, to).execute(dnn.stream(), from, to);
    return blocks;
  });
}

/// The product with a part of a kept weight. oneDNN's fast kernels write whole rows alone, so that a part's outputs are
/// copied into those of the weight.
void linear_with_part(Context& ctx, OneDnn& dnn, ConstView x, const WeightPart& w, bool accumulate) {
  const int64_t rows = x.shape()[0], out = w.out;
  const bool is_whole = out == w.y_stride;
  const OneDnn::MatmulKey key{rows, w.in, out, 0, 0, w.in, out, x.dtype(), w.bias != nullptr, accumulate && is_whole,
                              false};
  const auto product = dnn.matmul(key);
  const std::byte* const blocks = blocks_of(ctx, dnn, *product, w, x.dtype());
  if (is_whole) return dnn.run_matmul(*product, key, x.bytes(), blocks, w.bias, w.y);
  auto* const made =
      reinterpret_cast<float*>(ctx.state<KeptOutputs>().at_least(static_cast<size_t>(rows * out) * sizeof(float)));
  dnn.run_matmul(*product, key, x.bytes(), blocks, w.bias, made);
  parallel_ranges(ctx, rows, row_grain(out), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* const from = made + i * out;
      float* const to = w.y + i * w.y_stride;
      if (accumulate) {
        for (int64_t j = 0; j < out; ++j) to[j] += from[j];
      } else {
        std::memcpy(to, from, static_cast<size_t>(out) * sizeof(float));
      }
    }
  });
}

}  // namespace

void run(OnCpu<linear>, Context& ctx, ConstView x, const Linear& w, View y, bool accumulate) {
  OneDnn& dnn = ctx.state<OneDnn>();
  if (x.shape()[0] == 0) return;
  if (kept_of(w) != nullptr) {
    const bool blocked = dnn.rows_independent(w.input);
    // Rows that lie a multiple of 4096 bytes apart share sets of the cache: to reorder them takes five times as long.
    each_part(ctx, w, y, blocked ? kLine / static_cast<int64_t>(size_bytes(w.input)) : 0, [&](const WeightPart& part) {
      (blocked ? linear_with_part : linear_in_blocks)(ctx, dnn, x, part, accumulate);
    });
    return;
  }
  if (!packed_of(w).blocked) return linear_in_blocks(ctx, dnn, x, whole_weight(w, y), accumulate);
  const OneDnn::MatmulKey key{x.shape()[0], w.in, w.out, 0, 0, w.in, w.out, w.input, static_cast<bool>(w.bias),
                              accumulate,   false};
  dnn.run_matmul(*dnn.matmul(key), key, x.bytes(), packed_of(w).storage.data(), w.bias ? w.bias.data<float>() : nullptr,
                 y.data<float>());
}

}  // namespace ops

namespace cpu {

bool multiply_int8(Context& ctx, ConstView x, ConstView w, int32_t* sums) {
  const int64_t rows = x.shape()[0], in = x.shape()[1], out = w.shape()[0];
  if (!OneDnn::has_int8()) return false;
  OneDnn& dnn = ctx.state<OneDnn>();
  const OneDnn::MatmulKey key{rows, in, out, 1, in, in, out, DType::i8, false, false, false};
  dnn.run_matmul(*dnn.matmul(key), key, x.bytes(), w.bytes(), nullptr, sums);
  return true;
}

namespace {

OneDnn::MatmulKey key_of(const BlockMatmul::Product& p, DType dtype) {
  return {p.rows, p.in, p.out, p.b_stride_in, p.b_stride_out, p.a_stride, p.c_stride, dtype, false, false, true};
}

}  // namespace

void BlockMatmul::prepare(const Product& product) {
  if (std::ranges::find(prepared_, product, &decltype(prepared_)::value_type::first) == prepared_.end())
    prepared_.emplace_back(product, ctx_.state<OneDnn>().matmul(key_of(product, dtype_)));
}

void BlockMatmul::run(const Product& product, const void* a, const void* b, float* c) const {
  const auto known = std::ranges::find(prepared_, product, &decltype(prepared_)::value_type::first);
  check(known != prepared_.end(), "a product is prepared before its loop");
  const auto& primitive = *static_cast<const dnnl::matmul*>(known->second.get());
  ctx_.state<OneDnn>().run_matmul(primitive, key_of(product, dtype_), a, b, nullptr, c);
}

bool BlockMatmul::fixed_rows() const { return !ctx_.state<OneDnn>().rows_independent(dtype_); }

void BlockMatmul::reserve_workspaces(size_t bytes) {
  for (int thread = 0; thread < ctx_.threads(); ++thread) workspace(thread, bytes);
}

std::byte* BlockMatmul::workspace(int thread, size_t bytes) const {
  return ctx_.state<OneDnn>().workspace(thread, bytes);
}

}  // namespace cpu
}  // namespace nostos
