// Implements the exchanges by messages: heads token-major or head-major on their way there, results on their way back.
#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "nn/attention_exchange.h"

namespace nostos::nn {
namespace {

using parallel::Range;
using Member = SequenceGroup::Member;

/// The messages of an exchange; both ends leave out those without bytes.
struct Messages {
  void send(const Context& ctx, int peer, ConstView view) {
    if (view.size_in_bytes() > 0) sends.push_back({peer, device_bytes(ctx, view)});
  }
  void receive(const Context& ctx, int peer, View view) {
    if (view.size_in_bytes() > 0) receives.push_back({peer, device_bytes(ctx, view)});
  }

  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
};

/// Hands out consecutive tensors of one dtype from a buffer.
class Pieces {
 public:
  explicit Pieces(View buffer) : buffer_(buffer) {}

  View next(const Shape& shape) {
    const View piece(buffer_.bytes() + used_bytes_, buffer_.dtype(), shape);
    used_bytes_ += piece.size_in_bytes();
    check(used_bytes_ <= buffer_.size_in_bytes(), "an exchange stays within its buffer");
    return piece;
  }

 private:
  View buffer_;
  size_t used_bytes_ = 0;
};

/// \return entry i of the outermost axis.
View entry(View of, int64_t i) { return of.rows(i, 1).reshape({of.shape()[1], of.shape()[2], of.shape()[3]}); }

/// Calls visit(peer, member) for all of the group but this rank.
template <class Visit>
void for_each_peer(const SequenceGroup& group, const Visit& visit) {
  for (int peer = 0; peer < group.peers().world(); ++peer)
    if (peer != group.peers().rank()) visit(peer, group.members[static_cast<size_t>(peer)]);
}

}  // namespace

bool PackedExchange::serves(const SequenceGroup& group, Device device, DType dtype) {
  return group.ranks->ring().world() == 1 && !group.is_scattered &&
         ops::packs_attention(device, dtype, group.head_dim, false);
}

PackedExchange PackedExchange::take(Arena& arena, const SequenceGroup& group, DType dtype) {
  const int64_t own_heads = group.self().heads.count;
  PackedExchange s;
  // This rank's heads are written in place, those of the peers sent from here.
  s.results.own_rows = nostos::take(arena, dtype, {3 * (group.heads - own_heads) * group.self().rows * group.head_dim});
  s.packed = nostos::take(arena, dtype, {group.rows(), 3, own_heads, group.head_dim});
  s.results.mixed = nostos::take(arena, dtype, {group.rows(), own_heads * group.head_dim});
  return s;
}

void PackedExchange::attend(Context& ctx, const SequenceGroup& group, const SplitHeads& split,
                            const ops::Scoring& scoring, View mixed) const {
  const Member& self = group.self();
  // `count` rows of every member's heads, of which nobody wants any yet.
  const auto nowhere = [&](int64_t count) {
    std::vector<ops::HeadGroup> groups;
    for (const Member& member : group.members)
      groups.push_back({{}, {}, {}, View(nullptr, packed.dtype(), {count, 3, member.heads.count, group.head_dim})});
    return groups;
  };
  Messages messages;
  std::vector<ops::HeadGroup> others = nowhere(self.rows);
  Pieces own_rows(results.own_rows);
  for_each_peer(group, [&](int peer, const Member& member) {
    View& sent = others[static_cast<size_t>(peer)].packed;
    sent = own_rows.next(sent.shape());
    // Both ends go through the runs of the sender's rows.
    for (const ops::RowRun& run : self.into_group) messages.send(ctx, peer, sent.rows(run.from, run.count));
    for (const ops::RowRun& run : member.into_group) messages.receive(ctx, peer, packed.rows(run.to, run.count));
  });
  split({0, self.rows}, others);
  Pending pending = group.peers().exchange("attention heads", messages.sends, messages.receives);
  for (const ops::RowRun& run : self.into_group) {
    std::vector<ops::HeadGroup> own = nowhere(run.count);
    own[static_cast<size_t>(group.peers().rank())].packed = packed.rows(run.to, run.count);
    split({run.from, run.count}, own);
  }
  pending.wait();
  const int64_t heads = self.heads.count;
  if (heads > 0)  // those were normalised and rotated before they travelled
    ops::packed_attention(ctx, packed.reshape({group.rows(), 3 * heads * group.head_dim}), {}, {heads, heads}, scoring,
                          results.mixed);
  results.send_home(ctx, group, mixed);
}

HeadMajorExchange HeadMajorExchange::take(Arena& arena, const SequenceGroup& group, DType dtype) {
  const int64_t own_heads = group.self().heads.count, rows = group.rows(), own_rows = group.self().rows;
  HeadMajorExchange s;
  s.results.own_rows = nostos::take(arena, dtype, {3 * group.heads * own_rows * group.head_dim});
  // Scattered results are packed here, this rank's own among them.
  s.results.received = nostos::take(
      arena, dtype, {std::max(3 * (rows - own_rows), group.is_scattered ? rows : 0) * own_heads * group.head_dim});
  s.heads = nostos::take(arena, dtype, {3, own_heads, rows, group.head_dim});
  s.results.mixed = nostos::take(arena, dtype, {rows, own_heads * group.head_dim});
  if (group.ranks->ring().world() > 1) s.ring = Ring::take(arena, group, dtype);
  return s;
}

void HeadMajorExchange::attend(Context& ctx, const SequenceGroup& group, const SplitHeads& split,
                               const ops::Scoring& scoring, View mixed) const {
  exchange(ctx, group, split);
  if (ring)
    ring->attend(ctx, group, heads, scoring, results.mixed);
  else
    ops::attention(ctx, {entry(heads, 0), entry(heads, 1), entry(heads, 2)}, scoring, false, results.mixed);
  results.send_home(ctx, group, mixed);
}

void HeadMajorExchange::exchange(Context& ctx, const SequenceGroup& group, const SplitHeads& split) const {
  Communicator& peers = group.peers();
  const int64_t own_heads = group.self().heads.count, own_count = group.self().rows;
  Messages messages;
  std::vector<ops::HeadGroup> groups;
  std::vector<View> parts;  // of each member's rows: this rank's heads
  Pieces own_rows(results.own_rows), received(results.received);
  for (int peer = 0; peer < peers.world(); ++peer) {
    const Member& member = group.members[static_cast<size_t>(peer)];
    // q, k and v of one peer's heads lie side by side.
    const View sent = own_rows.next({3, member.heads.count, own_count, group.head_dim});
    groups.push_back({entry(sent, 0), entry(sent, 1), entry(sent, 2)});
    if (peer == peers.rank()) {
      parts.push_back(sent);
      continue;
    }
    parts.push_back(received.next({3, own_heads, member.rows, group.head_dim}));
    messages.send(ctx, peer, sent);
    messages.receive(ctx, peer, parts.back());
  }
  split({0, own_count}, groups);
  Pending pending = peers.exchange("attention heads", messages.sends, messages.receives);
  const auto place = [&](int peer, const Member& member) {
    ops::copy_rows(ctx, parts[static_cast<size_t>(peer)].reshape({3 * own_heads, member.rows, group.head_dim}),
                   heads.reshape({3 * own_heads, group.rows(), group.head_dim}), member.into_group);
  };
  place(peers.rank(), group.self());
  pending.wait();
  for_each_peer(group, place);
}

void ResultMessages::send_home(Context& ctx, const SequenceGroup& group, View out) const {
  const Member& self = group.self();
  const int64_t width = self.heads.count * group.head_dim;
  Pieces packed(received);
  // This rank's results for a member's rows, and where those stand in the member's own order.
  struct Results {
    ConstView rows;
    int64_t at;
  };
  const auto results_for = [&](const Member& member) {
    std::vector<Results> results;
    std::vector<ops::RowRun> out_of_group;
    for (const ops::RowRun& run : member.into_group) {
      results.push_back({mixed.rows(run.to, run.count), run.from});
      out_of_group.push_back({run.to, run.from, run.count});
    }
    if (!group.is_scattered) return results;
    const View together = packed.next({member.rows, width});
    ops::copy_rows(ctx, mixed.reshape({1, group.rows(), width}), together.reshape({1, member.rows, width}),
                   out_of_group);
    return std::vector<Results>{{together, 0}};
  };
  // Places results of one member's heads for this rank's rows from `at` on.
  const auto place = [&](ConstView rows, const Range& heads, int64_t at) {
    const int64_t count = rows.shape()[0];
    ops::copy_rows(ctx, rows.reshape({count, heads.count, group.head_dim}),
                   out.rows(at, count).reshape({count, group.heads, group.head_dim}),
                   std::array{ops::RowRun{0, heads.begin, heads.count}});
  };
  Messages messages;
  std::vector<View> parts(group.members.size());
  Pieces own(own_rows);
  for_each_peer(group, [&](int peer, const Member& member) {
    View& part = parts[static_cast<size_t>(peer)];
    part = own.next({self.rows, member.heads.count * group.head_dim});
    // Both ends go through the runs of the receiver's rows.
    for (const Results& results : results_for(member)) messages.send(ctx, peer, results.rows);
    if (group.is_scattered) {
      messages.receive(ctx, peer, part);
    } else {
      for (const ops::RowRun& run : self.into_group) messages.receive(ctx, peer, part.rows(run.from, run.count));
    }
  });
  Pending pending = group.peers().exchange("attention rows", messages.sends, messages.receives);
  for (const Results& results : results_for(self)) place(results.rows, self.heads, results.at);
  pending.wait();
  for_each_peer(group,
                [&](int peer, const Member& member) { place(parts[static_cast<size_t>(peer)], member.heads, 0); });
}

}  // namespace nostos::nn
