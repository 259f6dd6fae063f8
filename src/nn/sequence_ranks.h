// Owns the ranks that share one sequence, and which of its heads and rows each holds: what the exchanges around
// attention go by.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ops/elementwise.h"
#include "parallel/communicator.h"
#include "parallel/shard_plan.h"

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

/// One sequence as the ranks of this rank's Ulysses group hold it.
struct SequenceGroup {
  /// A rank of the group: its heads, and where its rows stand among the group's.
  struct Member {
    parallel::Range heads;
    int64_t rows = 0;
    std::vector<ops::RowRun> into_group;  ///< from the member's order to the group's
  };

  /// \param ranks outlives this. \param runs the rows that each rank holds, in its own order, as runs of the whole
  /// sequence: every row once. \param heads of the attention layers, and their width
  SequenceGroup(const SequenceRanks& ranks, const std::vector<std::vector<parallel::Range>>& runs, int64_t heads,
                int64_t head_dim);

  Communicator& peers() const { return ranks->ulysses(); }
  const Member& self() const { return members[static_cast<size_t>(peers().rank())]; }
  /// \return rows of all members: the keys that this rank attends to, but for those that travel around a ring.
  int64_t rows() const { return rows_of_groups[static_cast<size_t>(ranks->ring().rank())]; }

  const SequenceRanks* ranks;
  int64_t heads, head_dim;
  std::vector<Member> members;          ///< in the order of ranks. The group's rows stand in the whole sequence's order
  std::vector<int64_t> rows_of_groups;  ///< of every group of the ring
  bool is_scattered = false;            ///< whether a member's rows lie in too many runs for a message each
};

}  // namespace nostos::nn
