// Implements attention of ranks that write into one another's memory.
#include <utility>
#include <vector>

#include "nn/attention_exchange.h"

namespace nostos::nn {

bool SharedMemoryExchange::serves(const SequenceGroup& group, Device device, DType dtype) {
  size_t runs = 0;
  for (const SequenceGroup::Member& member : group.members) runs += member.into_group.size();
  return PackedExchange::serves(group, device, dtype) && group.peers().device().shares_memory(device) &&
         runs <= ops::kMostRowTargets;
}

SharedMemoryExchange SharedMemoryExchange::take(Arena& arena, const SequenceGroup& group, DType dtype) {
  return {nostos::take(arena, dtype, {group.rows(), 3, group.self().heads.count, group.head_dim})};
}

void SharedMemoryExchange::attend(Context& ctx, const SequenceGroup& group, const SplitHeads& split,
                                  const ops::Scoring& scoring, View mixed) const {
  Communicator& peers = group.peers();
  const DType dtype = packed.dtype();
  const int64_t own_heads = group.self().heads.count, row_bytes = group.head_dim * size_bytes(dtype);
  struct Places {
    std::byte *packed, *mixed;
  };
  // The peers are done with what is written to.
  const std::vector<Places> places = peers.fence_and_tell("attention memory", Places{packed.bytes(), mixed.bytes()});
  Traffic written;
  const auto count = [&](size_t peer, int64_t bytes) {
    if (static_cast<int>(peer) == peers.rank() || bytes == 0) return;
    written.bytes += static_cast<uint64_t>(bytes);
    ++written.messages;
  };
  for (const ops::RowRun& run : group.self().into_group) {
    std::vector<ops::HeadGroup> groups;
    for (size_t peer = 0; peer < group.members.size(); ++peer) {
      const int64_t heads = group.members[peer].heads.count;
      std::byte* const to = places[peer].packed + run.to * 3 * heads * row_bytes;
      groups.push_back({{}, {}, {}, View(to, dtype, {run.count, 3, heads, group.head_dim})});
      count(peer, run.count * 3 * heads * row_bytes);
    }
    split({run.from, run.count}, groups);
  }
  peers.fence("attention heads", std::exchange(written, {}));
  std::vector<ops::RowTarget> results;
  for (size_t peer = 0; peer < group.members.size(); ++peer) {
    for (const ops::RowRun& run : group.members[peer].into_group) {
      std::byte* const to = places[peer].mixed + (run.from * group.heads + group.self().heads.begin) * row_bytes;
      results.push_back({run.to, run.count, to, group.heads * group.head_dim});
      count(peer, run.count * own_heads * row_bytes);
    }
  }
  if (own_heads > 0)
    ops::packed_attention_to(ctx, packed.reshape({group.rows(), 3 * own_heads * group.head_dim}), {},
                             {own_heads, own_heads}, scoring, results);
  peers.fence("attention rows", written);
}

}  // namespace nostos::nn
