// Makes ranks on CPUs exchange heads as GPUs with packed attention do: this ops::backend_of() takes the place of the
// library's, and gives the CPU's backend with an attention that reads heads token-major.
#include <cstring>

#include "base/error.h"
#include "ops/backend.h"

namespace nostos {
namespace {

bool packs_attention(Device, DType, int64_t, bool causal) { return !causal; }

/// Attention of heads that are rotated already, moved apart.
void packed_attention(Context& ctx, View qkv, ConstView q_norm, ConstView, float, ConstView cos, ConstView,
                      ops::RotaryPairs, int64_t heads, int64_t kv_heads, float scale,
                      std::span<const ops::RowTarget> out) {
  check(!q_norm && !cos, "ranks rotate heads before they exchange them");
  const int64_t tokens = qkv.shape()[0], all_heads = heads + 2 * kv_heads, head_dim = qkv.shape()[1] / all_heads;
  Tensor apart(Device{}, qkv.dtype(), {all_heads, tokens, head_dim});
  const size_t head_bytes = static_cast<size_t>(head_dim) * size_bytes(qkv.dtype());
  for (int64_t row = 0; row < tokens * all_heads; ++row) {
    const int64_t to = row % all_heads * tokens + row / all_heads;
    std::memcpy(apart.view().bytes() + static_cast<size_t>(to) * head_bytes,
                qkv.bytes() + static_cast<size_t>(row) * head_bytes, head_bytes);
  }
  Tensor mixed(Device{}, qkv.dtype(), {tokens, heads * head_dim});
  ops::attention(ctx, apart.view().rows(0, heads), apart.view().rows(heads, kv_heads),
                 apart.view().rows(heads + kv_heads, kv_heads), scale, false, mixed);
  for (const ops::RowTarget& target : out) {
    const View rows = mixed.view().rows(target.first, target.count);
    for (int64_t row = 0; row < target.count; ++row)
      std::memcpy(target.to + static_cast<size_t>(row * target.stride) * size_bytes(qkv.dtype()),
                  rows.rows(row, 1).bytes(), static_cast<size_t>(heads) * head_bytes);
  }
}

}  // namespace

const ops::Backend& ops::backend_of(Device) {
  static const Backend packed = [] {
    Backend backend = cpu_backend();
    backend.packs_attention = nostos::packs_attention;
    backend.packed_attention = nostos::packed_attention;
    return backend;
  }();
  return packed;
}

}  // namespace nostos
