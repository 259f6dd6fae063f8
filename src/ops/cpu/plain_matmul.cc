// Implements matrix products in plain C++ for builds without oneDNN: float32 only, one order of sums for every row.
#include <cstring>
#include <vector>

#include "base/error.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/stored_weight.h"
#include "ops/device_op.h"
#include "ops/linear.h"

namespace nostos {
namespace ops {

using namespace cpu;

Capabilities run(OnCpu<capabilities>, Device) { return {.int8_attention = true}; }

/// The weight stays as it came: [out, in].
Linear run(OnCpu<pack_linear>, Context& ctx, ConstView weight) {
  Linear made{weight.shape()[1], weight.shape()[0], weight.dtype(), nullptr};
  auto packed = std::make_shared<PackedWeight>();
  packed->storage = Buffer(ctx.device(), weight.size_in_bytes());
  std::memcpy(packed->storage.data(), weight.bytes(), weight.size_in_bytes());
  made.packed = std::move(packed);
  return made;
}

namespace {

void linear_with(const Context& ctx, ConstView x, const WeightPart& w, bool accumulate) {
  const float* a = x.data<float>();
  const float* b = reinterpret_cast<const float*>(w.rows);
  parallel_ranges(ctx, x.shape()[0] * w.out, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t o = i % w.out;
      const float* row = a + i / w.out * w.in;
      const float* column = b + o * w.stride;
      float sum = w.bias != nullptr ? w.bias[o] : 0.f;
#pragma omp simd reduction(+ : sum)
      for (int64_t k = 0; k < w.in; ++k) sum += row[k] * column[k];
      float& to = w.y[i / w.out * w.y_stride + o];
      to = sum + (accumulate ? to : 0.f);
    }
  });
}

}  // namespace

void run(OnCpu<linear>, Context& ctx, ConstView x, const Linear& w, View y, bool accumulate) {
  if (x.shape()[0] == 0) return;
  if (kept_of(w) == nullptr) return linear_with(ctx, x, whole_weight(w, y), accumulate);
  each_part(ctx, w, y, 0, [&](const WeightPart& part) { linear_with(ctx, x, part, accumulate); });
}

}  // namespace ops

namespace cpu {

bool multiply_int8(Context&, ConstView, ConstView, int32_t*) { return false; }

namespace {

/// Scratch of the attention blocks, one piece a thread.
struct PlainWorkspaces {
  explicit PlainWorkspaces(Context& ctx) : pieces(static_cast<size_t>(ctx.threads())) {}
  std::vector<Buffer> pieces;
};

}  // namespace

void BlockMatmul::prepare(const Product&) { check(dtype_ == DType::f32, "plain products are float32"); }

void BlockMatmul::run(const Product& p, const void* a, const void* b, float* c) const {
  const float* left = static_cast<const float*>(a);
  const float* right = static_cast<const float*>(b);
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t o = 0; o < p.out; ++o) {
      float sum = 0;
      for (int64_t k = 0; k < p.in; ++k)
        sum += left[r * p.a_stride + k] * right[k * p.b_stride_in + o * p.b_stride_out];
      c[r * p.c_stride + o] = sum;
    }
  }
}

bool BlockMatmul::fixed_rows() const { return false; }

void BlockMatmul::reserve_workspaces(size_t bytes) {
  for (int thread = 0; thread < ctx_.threads(); ++thread) workspace(thread, bytes);
}

std::byte* BlockMatmul::workspace(int thread, size_t bytes) const {
  Buffer& mine = ctx_.state<PlainWorkspaces>().pieces[static_cast<size_t>(thread)];
  if (mine.size_bytes() < bytes) mine = Buffer(Device{}, bytes);
  return mine.data();
}

}  // namespace cpu
}  // namespace nostos
