// Implements the exchange of rows for heads, the ring over keys and values, and the gather of tokens.
#include "nn/sequence_parallel.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"
#include "ops/elementwise.h"

namespace nostos::nn {
namespace {

using parallel::Range;

std::vector<int> consecutive(int first, int stride, int count) {
  std::vector<int> ranks(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) ranks[static_cast<size_t>(i)] = first + i * stride;
  return ranks;
}

int64_t count_rows(std::span<const Range> runs) {
  return std::accumulate(runs.begin(), runs.end(), int64_t{0},
                         [](int64_t sum, const Range& run) { return sum + run.count; });
}

ByteView device_bytes(const Context& ctx, View view) { return {view.bytes(), view.size_in_bytes(), ctx.device()}; }
ConstByteView device_bytes(const Context& ctx, ConstView view) {
  return {view.bytes(), view.size_in_bytes(), ctx.device()};
}

/// Rows travel without being packed where they lie in so few runs: the token plan has two, a cut along the height four,
/// and one along the width as many as the picture has rows of tokens.
constexpr size_t kMaxRuns = 4;

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

}  // namespace

SequenceRanks::SequenceRanks(Communicator& ranks, Communicator& layers, int64_t ring_degree) : ranks_(ranks) {
  check(ring_degree >= 1 && ranks.world() % ring_degree == 0, "the ring degree divides the ranks");
  const int ring = static_cast<int>(ring_degree), ulysses = ranks.world() / ring;
  const int group = ranks.rank() / ulysses, place = ranks.rank() % ulysses;
  constexpr auto kPace = GroupCommunicator::Pace::shared;
  ulysses_ = std::make_unique<GroupCommunicator>(layers, consecutive(group * ulysses, 1, ulysses), kPace);
  ring_ = std::make_unique<GroupCommunicator>(layers, consecutive(place, ulysses, ring), kPace);
}

ShardedSequence::ShardedSequence(const SequenceRanks& ranks, std::vector<std::vector<Range>> runs, int64_t heads,
                                 int64_t head_dim)
    : ranks_(&ranks), head_dim_(head_dim), heads_(heads) {
  check(std::ssize(runs) == ranks.all().world(), "every rank has its rows");
  const int self = ranks.all().rank(), group = ranks.group_of(self);
  runs_ = runs[static_cast<size_t>(self)];
  rows_ = count_rows(runs_);
  group_rows_.resize(static_cast<size_t>(ranks.ring().world()));

  struct Piece {
    Range rows;
    size_t member;
    int64_t at;  ///< first row in the member's own order
  };
  std::vector<Piece> pieces;
  const std::vector<Range> head_ranges = parallel::split(heads, ranks.ulysses().world());
  for (int rank = 0; rank < ranks.all().world(); ++rank) {
    const std::vector<Range>& held = runs[static_cast<size_t>(rank)];
    group_rows_[static_cast<size_t>(ranks.group_of(rank))] += count_rows(held);
    if (ranks.group_of(rank) != group) continue;
    Member member{head_ranges[members_.size()], count_rows(held), {}};
    int64_t at = 0;
    for (const Range& run : held) {
      pieces.push_back({run, members_.size(), at});
      at += run.count;
    }
    members_.push_back(std::move(member));
  }
  // The group's rows stand in the order of the whole sequence: one rank would sum over keys in that order.
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.rows.begin < b.rows.begin; });
  int64_t to = 0;
  for (const Piece& piece : pieces) {
    members_[piece.member].into_group.push_back({piece.at, to, piece.rows.count});
    to += piece.rows.count;
  }
  for (const Member& member : members_) is_scattered_ = is_scattered_ || member.into_group.size() > kMaxRuns;
}

const ShardedSequence::Member& ShardedSequence::self() const {
  return members_[static_cast<size_t>(ranks_->ulysses().rank())];
}

/// \return whether the heads are exchanged token-major, each row to where attention reads it: the same on all ranks.
bool ShardedSequence::packs(Device device, DType dtype) const {
  return ranks_->ring().world() == 1 && !is_scattered_ && ops::packs_attention(device, dtype, head_dim_, false);
}

/// \return whether packed heads and results are written to the peers by the kernels that make them.
bool ShardedSequence::shares(Device device) const {
  size_t runs = 0;
  for (const Member& member : members_) runs += member.into_group.size();
  return ranks_->ulysses().shares_memory(device) && runs <= ops::kMostRowTargets;
}

ShardedSequence::Scratch ShardedSequence::take(Arena& arena, DType dtype) const {
  using nostos::take;
  Scratch s;
  if (!is_sharded()) return s;
  const int64_t own_heads = self().heads.count;
  const int64_t group = group_rows_[static_cast<size_t>(ranks_->ring().rank())], width = own_heads * head_dim_;
  if (packs(arena.device(), dtype) && shares(arena.device())) {
    s.packed = take(arena, dtype, {group, 3, own_heads, head_dim_});
    s.is_shared = true;
    return s;
  }
  // These serve both exchanges of a layer, for the second begins when the first is over, and takes a third of the bytes
  // the other way. Packed heads of this rank are written in place; others are placed by a copy, as those of the peers.
  if (packs(arena.device(), dtype)) {
    s.own_rows = take(arena, dtype, {3 * (heads_ - own_heads) * rows_ * head_dim_});
    s.packed = take(arena, dtype, {group, 3, own_heads, head_dim_});
  } else {
    s.own_rows = take(arena, dtype, {3 * heads_ * rows_ * head_dim_});
    // Scattered results are packed here, this rank's own among them.
    s.received = take(arena, dtype, {std::max(3 * (group - rows_), is_scattered_ ? group : 0) * width});
    const View heads = take(arena, dtype, {3, own_heads, group, head_dim_});
    const auto part = [&](int64_t i) { return heads.rows(i, 1).reshape({own_heads, group, head_dim_}); };
    s.q = part(0);
    s.k = part(1);
    s.v = part(2);
  }
  s.mixed = take(arena, dtype, {group, width});
  if (ranks_->ring().world() == 1) return s;
  const int64_t most = *std::max_element(group_rows_.begin(), group_rows_.end());
  for (View& keys_values : s.keys_values) keys_values = take(arena, dtype, {2 * own_heads * most * head_dim_});
  s.part = take(arena, DType::f32, {group, width});
  s.total = take(arena, DType::f32, {group, width});
  s.part_lse = take(arena, DType::f32, {own_heads, group});
  s.total_lse = take(arena, DType::f32, {own_heads, group});
  return s;
}

void ShardedSequence::attend(Context& ctx, ConstView qkv, const ops::RotaryHeads& rotary, float scale, const Scratch& s,
                             View mixed) const {
  const auto split = [&](const Range& rows, std::span<const ops::HeadGroup> groups) {
    ops::split_heads_rope(ctx, qkv.rows(rows.begin, rows.count), rotary.rows(rows.begin, rows.count), groups);
  };
  if (s.is_shared) return attend_in_shared_memory(ctx, split, scale, s, mixed);
  if (s.is_packed()) {
    exchange_packed_heads(ctx, split, s);
    const int64_t heads = self().heads.count, rows = s.packed.shape()[0];
    if (heads > 0)  // those were normalised and rotated before they travelled
      ops::packed_attention(ctx, s.packed.reshape({rows, 3 * heads * head_dim_}), {}, {heads, heads}, scale, s.mixed);
  } else {
    exchange_heads(ctx, split, s);
    if (ranks_->ring().world() > 1)
      attend_around_ring(ctx, scale, s);
    else
      ops::attention(ctx, {s.q, s.k, s.v}, scale, false, s.mixed);
  }
  exchange_rows(ctx, s, mixed);
}

void ShardedSequence::exchange_heads(Context& ctx, const SplitHeads& split, const Scratch& s) const {
  Communicator& peers = ranks_->ulysses();
  const int64_t own_heads = self().heads.count;
  Messages messages;
  std::vector<ops::HeadGroup> groups;
  std::vector<View> parts;  // of each member's rows: this rank's heads
  Pieces own_rows(s.own_rows), received(s.received);
  for (int peer = 0; peer < peers.world(); ++peer) {
    const Member& member = members_[static_cast<size_t>(peer)];
    // q, k and v of one peer's heads lie side by side.
    const View sent = own_rows.next({3, member.heads.count, rows_, head_dim_});
    const auto part = [&](int64_t i) { return sent.rows(i, 1).reshape({member.heads.count, rows_, head_dim_}); };
    groups.push_back({part(0), part(1), part(2)});
    if (peer == peers.rank()) {
      parts.push_back(sent);
      continue;
    }
    parts.push_back(received.next({3, own_heads, member.rows, head_dim_}));
    messages.send(ctx, peer, sent);
    messages.receive(ctx, peer, parts.back());
  }
  split({0, rows_}, groups);
  Pending pending = peers.exchange("attention heads", messages.sends, messages.receives);
  const View heads(s.q.bytes(), s.q.dtype(), {3 * own_heads, s.q.shape()[1], head_dim_});
  const auto place = [&](int peer) {
    const Member& member = members_[static_cast<size_t>(peer)];
    ops::copy_rows(ctx, parts[static_cast<size_t>(peer)].reshape({3 * own_heads, member.rows, head_dim_}), heads,
                   member.into_group);
  };
  place(peers.rank());
  pending.wait();
  for (int peer = 0; peer < peers.world(); ++peer)
    if (peer != peers.rank()) place(peer);
}

void ShardedSequence::exchange_packed_heads(Context& ctx, const SplitHeads& split, const Scratch& s) const {
  Communicator& peers = ranks_->ulysses();
  const DType dtype = s.packed.dtype();
  // `count` rows of every member's heads, of which nobody wants any yet.
  const auto nowhere = [&](int64_t count) {
    std::vector<ops::HeadGroup> groups;
    for (const Member& member : members_)
      groups.push_back({{}, {}, {}, View(nullptr, dtype, {count, 3, member.heads.count, head_dim_})});
    return groups;
  };
  Messages messages;
  std::vector<ops::HeadGroup> others = nowhere(rows_);
  Pieces own_rows(s.own_rows);
  for (int peer = 0; peer < peers.world(); ++peer) {
    if (peer == peers.rank()) continue;
    View& sent = others[static_cast<size_t>(peer)].packed;
    sent = own_rows.next(sent.shape());
    // Both ends go through the runs of the sender's rows.
    for (const ops::RowRun& run : self().into_group) messages.send(ctx, peer, sent.rows(run.from, run.count));
    for (const ops::RowRun& run : members_[static_cast<size_t>(peer)].into_group)
      messages.receive(ctx, peer, s.packed.rows(run.to, run.count));
  }
  split({0, rows_}, others);
  Pending pending = peers.exchange("attention heads", messages.sends, messages.receives);
  for (const ops::RowRun& run : self().into_group) {
    std::vector<ops::HeadGroup> own = nowhere(run.count);
    own[static_cast<size_t>(peers.rank())].packed = s.packed.rows(run.to, run.count);
    split({run.from, run.count}, own);
  }
  pending.wait();
}

void ShardedSequence::attend_in_shared_memory(Context& ctx, const SplitHeads& split, float scale, const Scratch& s,
                                              View mixed) const {
  Communicator& peers = ranks_->ulysses();
  const DType dtype = s.packed.dtype();
  const int64_t own_heads = self().heads.count, group = s.packed.shape()[0], row_bytes = head_dim_ * size_bytes(dtype);
  struct Places {
    std::byte *packed, *mixed;
  };
  // The peers are done with what is written to.
  const std::vector<Places> places = peers.fence_and_tell("attention memory", Places{s.packed.bytes(), mixed.bytes()});
  Traffic written;
  const auto count = [&](size_t peer, int64_t bytes) {
    if (static_cast<int>(peer) == peers.rank() || bytes == 0) return;
    written.bytes += static_cast<uint64_t>(bytes);
    ++written.messages;
  };
  for (const ops::RowRun& run : self().into_group) {
    std::vector<ops::HeadGroup> groups;
    for (size_t peer = 0; peer < members_.size(); ++peer) {
      const int64_t heads = members_[peer].heads.count;
      std::byte* const to = places[peer].packed + run.to * 3 * heads * row_bytes;
      groups.push_back({{}, {}, {}, View(to, dtype, {run.count, 3, heads, head_dim_})});
      count(peer, run.count * 3 * heads * row_bytes);
    }
    split({run.from, run.count}, groups);
  }
  peers.fence("attention heads", std::exchange(written, {}));
  std::vector<ops::RowTarget> results;
  for (size_t peer = 0; peer < members_.size(); ++peer) {
    for (const ops::RowRun& run : members_[peer].into_group) {
      std::byte* const to = places[peer].mixed + (run.from * heads_ + self().heads.begin) * row_bytes;
      results.push_back({run.to, run.count, to, heads_ * head_dim_});
      count(peer, run.count * own_heads * row_bytes);
    }
  }
  if (own_heads > 0)
    ops::packed_attention_to(ctx, s.packed.reshape({group, 3 * own_heads * head_dim_}), {}, {own_heads, own_heads},
                             scale, results);
  peers.fence("attention rows", written);
}

void ShardedSequence::exchange_rows(Context& ctx, const Scratch& s, View mixed) const {
  Communicator& peers = ranks_->ulysses();
  const int64_t width = self().heads.count * head_dim_;
  Pieces packed(s.received);
  // This rank's results for a member's rows, and where those stand in the member's own order.
  struct Results {
    ConstView rows;
    int64_t at;
  };
  const auto results_for = [&](const Member& member) {
    std::vector<Results> results;
    std::vector<ops::RowRun> out_of_group;
    for (const ops::RowRun& run : member.into_group) {
      results.push_back({s.mixed.rows(run.to, run.count), run.from});
      out_of_group.push_back({run.to, run.from, run.count});
    }
    if (!is_scattered_) return results;
    const View together = packed.next({member.rows, width});
    ops::copy_rows(ctx, s.mixed.reshape({1, s.mixed.shape()[0], width}), together.reshape({1, member.rows, width}),
                   out_of_group);
    return std::vector<Results>{{together, 0}};
  };
  // Places results of one member's heads for this rank's rows from `at` on.
  const auto place = [&](ConstView rows, const Range& heads, int64_t at) {
    const int64_t count = rows.shape()[0];
    ops::copy_rows(ctx, rows.reshape({count, heads.count, head_dim_}),
                   mixed.rows(at, count).reshape({count, heads_, head_dim_}),
                   std::array{ops::RowRun{0, heads.begin, heads.count}});
  };
  Messages messages;
  std::vector<View> parts(members_.size());
  Pieces own_rows(s.own_rows);
  for (int peer = 0; peer < peers.world(); ++peer) {
    if (peer == peers.rank()) continue;
    const Member& member = members_[static_cast<size_t>(peer)];
    View& part = parts[static_cast<size_t>(peer)];
    part = own_rows.next({rows_, member.heads.count * head_dim_});
    // Both ends go through the runs of the receiver's rows.
    for (const Results& results : results_for(member)) messages.send(ctx, peer, results.rows);
    if (is_scattered_) {
      messages.receive(ctx, peer, part);
    } else {
      for (const ops::RowRun& run : self().into_group) messages.receive(ctx, peer, part.rows(run.from, run.count));
    }
  }
  Pending pending = peers.exchange("attention rows", messages.sends, messages.receives);
  for (const Results& results : results_for(self())) place(results.rows, self().heads, results.at);
  pending.wait();
  for (int peer = 0; peer < peers.world(); ++peer)
    if (peer != peers.rank()) place(parts[static_cast<size_t>(peer)], members_[static_cast<size_t>(peer)].heads, 0);
}

void ShardedSequence::attend_around_ring(Context& ctx, float scale, const Scratch& s) const {
  Communicator& ring = ranks_->ring();
  const int world = ring.world(), next = (ring.rank() + 1) % world, previous = (ring.rank() + world - 1) % world;
  const int64_t heads = s.q.shape()[0];
  // k and v lie side by side.
  View keys_values(s.k.bytes(), s.k.dtype(), {2, heads, s.k.shape()[1], head_dim_});
  bool first = true;
  for (int step = 0; step < world; ++step) {
    const bool last = step + 1 == world;
    View incoming;
    std::optional<Pending> pending;
    if (!last) {
      const int group = (ring.rank() + world - step - 1) % world;
      const View buffer = s.keys_values[step % 2];
      incoming = View(buffer.bytes(), buffer.dtype(), {2, heads, group_rows_[static_cast<size_t>(group)], head_dim_});
      // The next block travels while this one is attended to.
      pending.emplace(ring.exchange("ring attention",
                                    std::array{SendTo{next, device_bytes(ctx, ConstView(keys_values))}},
                                    std::array{ReceiveFrom{previous, device_bytes(ctx, incoming)}}));
    }
    const int64_t keys = keys_values.shape()[2];
    if (keys > 0) {
      const auto part = [&](int64_t i) { return keys_values.rows(i, 1).reshape({heads, keys, head_dim_}); };
      ops::attention_part(ctx, {s.q, part(0), part(1)}, scale, first ? s.total : s.part,
                          first ? s.total_lse : s.part_lse);
      if (!first) ops::merge_attention(ctx, s.part, s.part_lse, s.total, s.total_lse);
      first = false;
    }
    if (pending) pending->wait();
    keys_values = incoming;
  }
  ops::convert(ctx, s.total, s.mixed);
}

std::vector<const ShardedSequence*> pointers_to(std::span<const ShardedSequence> sequences) {
  std::vector<const ShardedSequence*> pointers;
  for (const ShardedSequence& sequence : sequences) pointers.push_back(&sequence);
  return pointers;
}

int64_t rows_of(std::span<const ShardedSequence* const> sequences) {
  int64_t rows = 0;
  for (const ShardedSequence* sequence : sequences) rows += sequence->rows();
  return rows;
}

SequenceParallel::SequenceParallel(const parallel::Grid& grid, int64_t heads, int64_t head_dim)
    : plan_(parallel::make_plan({.grid = grid, .heads = heads})), head_dim_(head_dim) {
  deal_tokens();
}

SequenceParallel::SequenceParallel(const SequenceRanks& ranks, parallel::ShardPlan plan, int64_t head_dim)
    : ranks_(&ranks), plan_(std::move(plan)), head_dim_(head_dim) {
  check(plan_.request.ranks == ranks.all().world(), "the plan is for as many ranks as there are");
  deal_tokens();
}

void SequenceParallel::deal_tokens() {
  image_ = with_caption(0);
  int64_t from = 0;
  for (int64_t peer = 0; peer < plan_.request.ranks; ++peer) {
    ranks_tokens_.push_back({from, plan_.shares[static_cast<size_t>(peer)].image_tokens});
    int64_t at = 0;
    for (const Range& run : parallel::native_runs(plan_, peer)) {
      const int64_t real = std::min(run.end(), grid().tokens()) - run.begin;
      if (real <= 0) continue;  // pads stand last
      to_native_.push_back({from, run.begin, real});
      if (peer == rank()) to_local_.push_back({run.begin, at, real});
      from += real;
      at += real;
    }
  }
}

Range SequenceParallel::caption_rows(int64_t padded_caption) const {
  return parallel::split(padded_caption, plan_.request.ranks)[static_cast<size_t>(rank())];
}

ShardedSequence SequenceParallel::with_caption(int64_t padded_caption) const {
  if (is_alone()) return ShardedSequence(grid().padded() + padded_caption);
  const std::vector<Range> captions = parallel::split(padded_caption, plan_.request.ranks);
  std::vector<std::vector<Range>> runs;
  for (int64_t peer = 0; peer < plan_.request.ranks; ++peer) {
    runs.push_back(parallel::native_runs(plan_, peer));
    const Range& caption = captions[static_cast<size_t>(peer)];
    if (caption.count > 0) runs.back().push_back({grid().padded() + caption.begin, caption.count});
  }
  return {*ranks_, std::move(runs), plan_.request.heads, head_dim_};
}

void SequenceParallel::cut_tokens(Context& ctx, ConstView whole, View local) const {
  const int64_t width = whole.shape()[1];
  ops::copy_rows(ctx, whole.reshape({1, whole.shape()[0], width}), local.reshape({1, local.shape()[0], width}),
                 to_local_);
}

void SequenceParallel::gather_tokens(Context& ctx, ConstView local, View scratch, View whole) const {
  const int64_t width = whole.shape()[1];
  if (is_alone()) {
    ops::convert(ctx, local, whole);
    return;
  }
  const size_t token_bytes = static_cast<size_t>(width) * size_bytes(whole.dtype());
  std::vector<Part> parts;
  for (const Range& tokens : ranks_tokens_)
    parts.push_back({static_cast<size_t>(tokens.begin) * token_bytes, static_cast<size_t>(tokens.count) * token_bytes});
  ranks_->all().all_gather(device_bytes(ctx, local), device_bytes(ctx, scratch), parts).wait();
  ops::copy_rows(ctx, scratch.reshape({1, scratch.shape()[0], width}), whole.reshape({1, whole.shape()[0], width}),
                 to_native_);
}

}  // namespace nostos::nn
