// Owns how the ranks of a run are grouped: guidance halves, each a set of ranks that share one sequence.
#pragma once

#include <memory>

#include "nn/sequence_parallel.h"
#include "parallel/communicator.h"
#include "pipeline/parallelism.h"

namespace nostos {

/// Rank r of a run: r / (ring * ulysses) is its guidance half, the rest its place among the ranks of that half.
class RankGroups {
 public:
  /// \param world outlives this, and has parallelism.ranks() ranks.
  RankGroups(Communicator& world, const Parallelism& parallelism);

  Communicator& world() const { return world_; }
  /// The ranks of this rank's half.
  const nn::SequenceRanks& sequence() const { return *sequence_; }
  /// This rank and the one with the same share of the other half, in the halves' order; null without CFG parallelism.
  Communicator* halves() const { return halves_.get(); }

 private:
  Communicator& world_;
  std::unique_ptr<Communicator> half_, half_layers_, halves_;
  std::unique_ptr<nn::SequenceRanks> sequence_;
};

}  // namespace nostos
