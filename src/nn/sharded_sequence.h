// Owns one sequence whose rows are dealt to ranks: which rows are this rank's, and attention over all of them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "device/context.h"
#include "nn/attention_exchange.h"
#include "nn/sequence_ranks.h"
#include "parallel/shard_plan.h"
#include "tensor/tensor.h"

namespace nostos::nn {

/// This rank's part of one segment of a sequence: of the image, the text, references.
struct SegmentRows {
  parallel::Range whole{};  ///< the segment's rows in the whole sequence
  parallel::Range local{};  ///< this rank's rows of it, among all that it holds
  size_t stream = 0;        ///< whose weights the rows take, in layers that have several
};

/// One sequence whose rows are dealt to the ranks: what this rank holds, and attention over all of it.
///
/// Without a ring every rank attends with whole heads over keys in the order of the undealt sequence, so its results
/// are those of one rank, bit for bit. With a ring they differ by rounding.
class ShardedSequence {
 public:
  using Range = parallel::Range;

  /// Memory of the exchanges of one attention layer; nothing on one rank.
  using Scratch = std::variant<std::monostate, SharedMemoryExchange, PackedExchange, HeadMajorExchange>;

  /// A sequence that this rank has to itself: of segments, or of one.
  explicit ShardedSequence(std::vector<SegmentRows> segments);
  explicit ShardedSequence(int64_t rows) : ShardedSequence(std::vector{SegmentRows{{0, rows}, {0, rows}}}) {}
  ShardedSequence() = default;
  /// \param segments of this rank. \param runs the rows that each rank holds, segment by segment, as runs of the whole
  /// sequence: every row once. \param heads of the attention layers, and their width
  ShardedSequence(std::vector<SegmentRows> segments, const SequenceRanks& ranks,
                  const std::vector<std::vector<Range>>& runs, int64_t heads, int64_t head_dim);

  /// \return rows that this rank holds.
  int64_t rows() const { return rows_; }
  /// \return this rank's rows in its own order, as runs of the whole sequence.
  std::span<const Range> runs() const { return runs_; }
  /// \return this rank's part of each segment: they follow one another in its rows as in the whole sequence.
  std::span<const SegmentRows> segments() const { return segments_; }
  /// \return whether there is anybody to exchange with.
  bool is_sharded() const { return group_.has_value(); }

  Scratch take(Arena& arena, DType dtype) const;

  /// mixed = attention of this rank's rows over the whole sequence, where that is sharded. Waits for the peers.
  /// \param split of this rank's rows; what it makes is of scratch's dtype.
  /// \param mixed [rows, heads * head_dim] likewise. \throws Error peer_failed
  void attend(Context& ctx, const SplitHeads& split, const ops::Scoring& scoring, const Scratch& scratch,
              View mixed) const;

 private:
  int64_t rows_ = 0;
  std::vector<SegmentRows> segments_;
  std::vector<Range> runs_;
  std::optional<SequenceGroup> group_;
};

/// \return pointers to `sequences`, which outlive them.
std::vector<const ShardedSequence*> pointers_to(std::span<const ShardedSequence> sequences);

/// \return the rows that this rank holds of all `sequences`.
int64_t rows_of(std::span<const ShardedSequence* const> sequences);

/// Neighbouring rows that take the same weights.
struct StreamRows {
  size_t stream = 0;
  parallel::Range rows{};

  friend bool operator==(const StreamRows&, const StreamRows&) = default;
};

/// \return the rows of `sequences`, one after the other, by stream: the fewest runs, none empty. \param streams of the
/// layer; with one, all rows are of stream 0. \throws Error internal if a segment's stream is not below `streams`
std::vector<StreamRows> stream_rows(std::span<const ShardedSequence* const> sequences, size_t streams);

}  // namespace nostos::nn
