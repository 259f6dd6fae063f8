// Owns an image's tokens dealt to ranks by a shard plan, and the order of the sequences that are made of them and of
// what stands beside them: image before text, say. A denoiser makes its sequences with it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/context.h"
#include "nn/sequence_ranks.h"
#include "nn/sharded_sequence.h"
#include "ops/elementwise.h"
#include "parallel/shard_plan.h"
#include "tensor/tensor.h"

namespace nostos::nn {

/// What a sequence is made of, e.g. {{.rows = text, .stream = 1}, {.is_image = true}, {.rows = references}}.
struct Segment {
  bool is_image = false;  ///< the image's tokens and pads, dealt by the shard plan
  int64_t rows = 0;       ///< otherwise the rows of a text or of references, dealt by parallel::split()
  size_t stream = 0;      ///< whose weights the rows take, in layers that have several
};

/// A picture's image tokens dealt to ranks by a shard plan; other rows are dealt evenly beside them.
class SequenceParallel {
 public:
  /// One rank holds all tokens. \param plan of one rank.
  SequenceParallel(parallel::ShardPlan plan, int64_t head_dim);
  /// \param ranks outlives this. \param plan of as many ranks.
  SequenceParallel(const SequenceRanks& ranks, parallel::ShardPlan plan, int64_t head_dim);

  const parallel::ShardPlan& plan() const { return plan_; }
  const parallel::Grid& grid() const { return plan_.request.grid; }
  /// \return image tokens that this rank holds: the first of its rows of the image.
  int64_t image_tokens() const { return share().image_tokens; }
  /// The padded image tokens alone.
  const ShardedSequence& image() const { return image_; }
  /// \return the sequence of `segments`, in their order on every rank.
  ShardedSequence sequence(std::span<const Segment> segments) const;
  /// \return this rank's rows of a segment of `rows` that is no image.
  parallel::Range beside_rows(int64_t rows) const;

  /// Copies this rank's image tokens out of all. \param whole [grid tokens, n] \param local [image tokens, n]
  void cut_tokens(Context& ctx, ConstView whole, View local) const;
  /// Brings the tokens of all ranks home: whole = every rank's local, in the picture's order. Waits for the peers.
  /// \param scratch as whole. \throws Error peer_failed
  void gather_tokens(Context& ctx, ConstView local, View scratch, View whole) const;

 private:
  bool is_alone() const { return plan_.request.ranks == 1; }
  size_t rank() const { return is_alone() ? 0 : static_cast<size_t>(ranks_->all().rank()); }
  const parallel::Share& share() const { return plan_.shares[rank()]; }
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
