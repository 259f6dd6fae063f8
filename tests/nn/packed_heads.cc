// Makes ranks on CPUs exchange heads as GPUs with packed attention do: an attention on the CPU that reads heads
// token-major, which packed/ops/dispatch.h dispatches to.
#include <cstring>

#include "base/error.h"
#include "ops/attention.h"
#include "ops/capabilities.h"
#include "ops/device_op.h"

namespace nostos::ops {

Capabilities capabilities(Device device) { return Op<capabilities>::on<DeviceKind::cpu>(device); }

bool packs_attention(Device, DType, int64_t, bool causal) { return !causal; }

bool rounds_attention(Device, DType, int64_t) { return true; }

/// Attention of heads that are rotated already, moved apart.
void run(OnCpu<packed_attention_to>, Context& ctx, View qkv, const RotaryHeads& rotary, HeadCounts counts,
         const Scoring& scoring, std::span<const RowTarget> out) {
  check(!rotary.q_norm && !rotary.cos, "ranks rotate heads before they exchange them");
  const int64_t tokens = qkv.shape()[0], all_heads = counts.all(), heads = counts.q, kv_heads = counts.kv;
  const int64_t head_dim = qkv.shape()[1] / all_heads;
  Tensor apart(Device{}, qkv.dtype(), {all_heads, tokens, head_dim});
  const size_t head_bytes = static_cast<size_t>(head_dim) * size_bytes(qkv.dtype());
  for (int64_t row = 0; row < tokens * all_heads; ++row) {
    const int64_t to = row % all_heads * tokens + row / all_heads;
    std::memcpy(apart.view().bytes() + static_cast<size_t>(to) * head_bytes,
                qkv.bytes() + static_cast<size_t>(row) * head_bytes, head_bytes);
  }
  Tensor mixed(Device{}, qkv.dtype(), {tokens, heads * head_dim});
  attention(
      ctx,
      {apart.view().rows(0, heads), apart.view().rows(heads, kv_heads), apart.view().rows(heads + kv_heads, kv_heads)},
      scoring, false, mixed);
  for (const RowTarget& target : out) {
    const View rows = mixed.view().rows(target.first, target.count);
    for (int64_t row = 0; row < target.count; ++row)
      std::memcpy(target.to + static_cast<size_t>(row * target.stride) * size_bytes(qkv.dtype()),
                  rows.rows(row, 1).bytes(), static_cast<size_t>(heads) * head_bytes);
  }
}

}  // namespace nostos::ops
