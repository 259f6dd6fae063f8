// Owns the calls of cuDNN: fused attention and convolutions, each compiled once for a shape.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "device/context.h"
#include "tensor/dtype.h"

namespace nostos::cuda {

/// Attention of bf16 heads, as ops::attention().
struct FusedAttention {
  int64_t heads = 0, kv_heads = 0, queries = 0, keys = 0, head_dim = 0;
  float scale = 0;
  bool causal = false;
  bool log_sum_exp = false;  ///< also writes f32 [heads, queries]

  friend auto operator<=>(const FusedAttention&, const FusedAttention&) = default;
};

/// A convolution of a bf16 channels-last image, as ops::conv2d().
struct FusedConvolution {
  int64_t height = 0, width = 0, in = 0, out = 0, kernel = 0, stride = 1;
  int64_t top = 0, left = 0, bottom = 0, right = 0;  ///< padding
  DType y = DType::bf16;                             ///< f32 or bf16
  bool accumulate = false;                           ///< always so where y is f32

  friend auto operator<=>(const FusedConvolution&, const FusedConvolution&) = default;
};

/// \return the head widths that fused attention takes: multiples of 8 up to 128.
constexpr bool has_fused_attention(int64_t head_dim) { return head_dim % 8 == 0 && head_dim <= 128; }

/// Fused convolution takes and gives multiples of this many channels.
inline constexpr int64_t kFusedChannels = 8;

/// One context's handle of the library and what it has compiled. A shape's first call compiles, which takes up to a
/// second unless it was planned ahead, and must not fall into a recording.
class Cudnn {
 public:
  /// \param kept_plans of attention, and twice as many of convolutions, that are kept when the context's work is done:
  /// those used last. Each has code on the GPU and a MB on the host. A drawing of one size uses some ten and fifteen,
  /// and three times the convolutions where it decodes in stripes. \throws Error device if the library cannot be
  /// started
  explicit Cudnn(Context& ctx, size_t kept_plans = 24);
  ~Cudnn();

  /// Enqueues attention of q [heads, queries, head_dim], k and v [kv_heads, keys, head_dim] to out [queries, heads *
  /// head_dim], all bf16. A head's result does not depend on the number of heads, a query's not on that of queries:
  /// all numbers of them run the kernel that the library prefers for 1024 tokens.
  void run(const FusedAttention& shape, const void* q, const void* k, const void* v, void* out, void* log_sum_exp);

  /// Enqueues y = conv(x) + bias (+ y) with filter [out, kernel, kernel, in] and f32 bias. A row of y does not depend
  /// on the image's height: all heights of a width run the kernel that the library prefers for a square image.
  void run(const FusedConvolution& shape, const void* x, const void* filter, const void* bias, void* y);

  /// Begins to compile for `shape` on a thread of its own, which uses the context's device beside the thread that it
  /// serves. finish_plans() comes before the next run of a convolution. What fails is tried again by that run.
  void plan(const FusedConvolution& shape);
  /// Waits until no such thread is at work.
  void finish_plans();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace nostos::cuda
