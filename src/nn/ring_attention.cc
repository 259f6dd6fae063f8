// Implements the ring over keys and values.
#include <algorithm>
#include <array>
#include <optional>

#include "nn/attention_exchange.h"
#include "ops/elementwise.h"

namespace nostos::nn {

Ring Ring::take(Arena& arena, const SequenceGroup& group, DType dtype) {
  using nostos::take;
  const int64_t heads = group.self().heads.count, most = *std::ranges::max_element(group.rows_of_groups);
  const Shape results{group.rows(), heads * group.head_dim}, sums{heads, group.rows()};
  Ring s;
  for (View& keys_values : s.keys_values) keys_values = take(arena, dtype, {2 * heads * most * group.head_dim});
  s.part = take(arena, DType::f32, results);
  s.total = take(arena, DType::f32, results);
  s.part_lse = take(arena, DType::f32, sums);
  s.total_lse = take(arena, DType::f32, sums);
  return s;
}

void Ring::attend(Context& ctx, const SequenceGroup& group, View all_heads, const ops::Scoring& scoring,
                  View mixed) const {
  check(!scoring.is_rounded, "a ring's keys have no centre in common: its scores are not rounded");
  Communicator& ring = group.ranks->ring();
  const int world = ring.world(), next = (ring.rank() + 1) % world, previous = (ring.rank() + world - 1) % world;
  const int64_t heads = all_heads.shape()[1], head_dim = group.head_dim;
  const View q = all_heads.rows(0, 1).reshape({heads, group.rows(), head_dim});
  View travelling = all_heads.rows(1, 2);  // k and v lie side by side
  bool first = true;
  for (int step = 0; step < world; ++step) {
    View incoming;
    std::optional<Pending> pending;
    if (step + 1 < world) {
      const auto from = static_cast<size_t>((ring.rank() + world - step - 1) % world);
      const View& buffer = keys_values[step % 2];
      incoming = View(buffer.bytes(), buffer.dtype(), {2, heads, group.rows_of_groups[from], head_dim});
      // The next block travels while this one is attended to.
      pending.emplace(ring.exchange("ring attention",
                                    std::array{SendTo{next, device_bytes(ctx, ConstView(travelling))}},
                                    std::array{ReceiveFrom{previous, device_bytes(ctx, incoming)}}));
    }
    const int64_t keys = travelling.shape()[2];
    if (keys > 0) {
      const auto part_of = [&](int64_t i) { return travelling.rows(i, 1).reshape({heads, keys, head_dim}); };
      ops::attention_part(ctx, {q, part_of(0), part_of(1)}, scoring.scale, first ? total : part,
                          first ? total_lse : part_lse);
      if (!first) ops::merge_attention(ctx, part, part_lse, total, total_lse);
      first = false;
    }
    if (pending) pending->wait();
    travelling = incoming;
  }
  ops::convert(ctx, total, mixed);
}

}  // namespace nostos::nn
