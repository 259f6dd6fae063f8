// Owns how a sequence's rows and heads are dealt to ranks, and the exchanges around attention that follow from it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/context.h"
#include "ops/attention.h"
#include "ops/copy_rows.h"
#include "parallel/communicator.h"
#include "parallel/shard_plan.h"
#include "tensor/tensor.h"

namespace nostos::nn {

/// The ranks that share one sequence: `ring` groups of `ulysses` neighbours. Within a group heads are dealt, and rows
/// are exchanged for heads (Ulysses, arXiv 2309.14509); around the groups keys and values travel (Ring Attention,
/// arXiv 2310.01889).
class SequenceRanks {
 public:
  /// \param ranks outlives this; \param ring_degree divides its world.
  SequenceRanks(Communicator& ranks, int64_t ring_degree) : SequenceRanks(ranks, ranks, ring_degree) {}
  /// \param layers the same ranks, as those that go through layers at a pace of their own.
  SequenceRanks(Communicator& ranks, Communicator& layers, int64_t ring_degree);

  Communicator& all() const { return ranks_; }
  Communicator& ulysses() const { return *ulysses_; }
  Communicator& ring() const { return *ring_; }
  /// \return the group of `rank`, and its place there.
  int group_of(int rank) const { return rank / ulysses_->world(); }
  int place_of(int rank) const { return rank % ulysses_->world(); }

 private:
  Communicator& ranks_;
  std::unique_ptr<Communicator> ulysses_, ring_;
};

/// One sequence whose rows are dealt to the ranks: what this rank holds, and attention over all of it.
///
/// Without a ring every rank attends with whole heads over keys in the order of the undealt sequence, so its results are
/// those of one rank, bit for bit. With a ring they differ by rounding.
class ShardedSequence {
 public:
  using Range = parallel::Range;

  /// Memory of the exchanges of one attention layer; empty on one rank. Where ranks share memory it is `packed` alone.
  struct Scratch {
    View own_rows;             ///< of this rank's rows: heads on their way to the peers, then the peers' results
    View received;             ///< of the peers' rows: heads that are yet to be placed; null where they are packed
    View q, k, v;              ///< [this rank's heads, the group's rows, head_dim]
    View packed;               ///< instead of these, where attention reads it: [the group's rows, 3, heads, head_dim]
    View mixed;                ///< [the group's rows, this rank's heads * head_dim]
    View keys_values[2];       ///< [2, this rank's heads, another group's rows, head_dim]: on the way around the ring
    View part, total;          ///< f32 as mixed: attention over one group's keys, and over all so far
    View part_lse, total_lse;  ///< f32 [this rank's heads, the group's rows]
    bool is_shared = false;    ///< whether the peers write into `packed` themselves

    bool is_packed() const { return packed.shape().rank() > 0; }
  };

  /// A sequence that this rank has to itself.
  explicit ShardedSequence(int64_t rows) : rows_(rows), runs_{{0, rows}} {}
  ShardedSequence() = default;
  /// \param runs the rows that each rank holds, in its own order, as runs of the whole sequence: every row once.
  /// \param heads of the attention layers, and their width
  ShardedSequence(const SequenceRanks& ranks, std::vector<std::vector<Range>> runs, int64_t heads, int64_t head_dim);

  /// \return rows that this rank holds.
  int64_t rows() const { return rows_; }
  /// \return this rank's rows in its own order, as runs of the whole sequence.
  std::span<const Range> runs() const { return runs_; }
  /// \return whether there is anybody to exchange with.
  bool is_sharded() const { return ranks_ != nullptr && ranks_->all().world() > 1; }

  Scratch take(Arena& arena, DType dtype) const;

  /// mixed = attention of this rank's rows over the whole sequence. Waits for the peers.
  /// \param qkv, rotary as ops::split_heads_rope() takes them, of this rank's rows.
  /// \param mixed [rows, heads * head_dim] of scratch's dtype. \throws Error peer_failed
  void attend(Context& ctx, ConstView qkv, const ops::RotaryHeads& rotary, float scale, const Scratch& scratch,
              View mixed) const;

 private:
  /// A member of this rank's group: its heads, and where its rows stand among the group's.
  struct Member {
    Range heads;
    int64_t rows = 0;
    std::vector<ops::RowRun> into_group;  ///< from the member's order to the group's
  };
  /// ops::split_heads_rope() of some of this rank's rows.
  using SplitHeads = std::function<void(Range rows, std::span<const ops::HeadGroup> groups)>;

  const Member& self() const;
  bool packs(Device device, DType dtype) const;
  bool shares(Device device) const;
  /// Brings the heads of the group's rows into s.q, s.k and s.v, or s.packed.
  void exchange_heads(Context& ctx, const SplitHeads& split, const Scratch& s) const;
  void exchange_packed_heads(Context& ctx, const SplitHeads& split, const Scratch& s) const;
  void exchange_rows(Context& ctx, const Scratch& s, View mixed) const;
  /// attend() by kernels that write heads and results where they are read, on any rank.
  void attend_in_shared_memory(Context& ctx, const SplitHeads& split, float scale, const Scratch& s, View mixed) const;
  void attend_around_ring(Context& ctx, float scale, const Scratch& s) const;

  const SequenceRanks* ranks_ = nullptr;
  int64_t head_dim_ = 0;
  int64_t heads_ = 0;
  int64_t rows_ = 0;
  std::vector<Range> runs_;
  std::vector<Member> members_;      // of this rank's group, in its order
  bool is_scattered_ = false;        // whether a member's rows lie in too many runs for a message each
  std::vector<int64_t> group_rows_;  // of every group
};

/// \return pointers to `sequences`, which outlive them.
std::vector<const ShardedSequence*> pointers_to(std::span<const ShardedSequence> sequences);

/// \return the rows that this rank holds of all `sequences`.
int64_t rows_of(std::span<const ShardedSequence* const> sequences);

/// A picture's image tokens dealt to ranks by a shard plan; captions are dealt evenly beside them.
class SequenceParallel {
 public:
  /// One rank holds all tokens.
  SequenceParallel(const parallel::Grid& grid, int64_t heads, int64_t head_dim);
  /// \param ranks outlives this. \param plan of as many ranks.
  SequenceParallel(const SequenceRanks& ranks, parallel::ShardPlan plan, int64_t head_dim);

  const parallel::ShardPlan& plan() const { return plan_; }
  const parallel::Grid& grid() const { return plan_.request.grid; }
  /// \return image tokens that this rank holds: the first of its rows.
  int64_t image_tokens() const { return share().image_tokens; }
  /// The padded image tokens alone.
  const ShardedSequence& image() const { return image_; }
  /// \return this rank's rows of a caption of `padded_caption` rows.
  parallel::Range caption_rows(int64_t padded_caption) const;
  /// \return the sequence [padded image tokens | caption]; each rank's image rows come first.
  ShardedSequence with_caption(int64_t padded_caption) const;

  /// Copies this rank's image tokens out of all. \param whole [grid tokens, n] \param local [image tokens, n]
  void cut_tokens(Context& ctx, ConstView whole, View local) const;
  /// Brings the tokens of all ranks home: whole = every rank's local, in the picture's order. Waits for the peers.
  /// \param scratch as whole. \throws Error peer_failed
  void gather_tokens(Context& ctx, ConstView local, View scratch, View whole) const;

 private:
  bool is_alone() const { return plan_.request.ranks == 1; }
  int rank() const { return is_alone() ? 0 : ranks_->all().rank(); }
  const parallel::Share& share() const { return plan_.shares[static_cast<size_t>(rank())]; }
  void deal_tokens();

  const SequenceRanks* ranks_ = nullptr;  // null on one rank
  parallel::ShardPlan plan_;
  int64_t head_dim_;
  ShardedSequence image_;
  std::vector<parallel::Range> ranks_tokens_;  // of every rank, in rank order
  std::vector<ops::RowRun> to_native_;         // from rank order to the picture's order
  std::vector<ops::RowRun> to_local_;          // from the picture's order to this rank's
};

}  // namespace nostos::nn
