// Owns how the ranks of a run are grouped: the two branches of guidance ("halves"), each a set of ranks that share one
// sequence. Each Drawing has one.
#pragma once

#include <memory>

#include "nn/sequence_parallel.h"
#include "parallel/communicator.h"
#include "pipeline/parallelism.h"

namespace nostos {

/// Rank r of a run belongs to half r / (ring * ulysses); the remainder is the rank's place among the ranks of that
/// half.
class RankGroups {
 public:
  /// \param world outlives the groups, and has parallelism.ranks() ranks
  RankGroups(Communicator& world, const Parallelism& parallelism);

  Communicator& world() const { return world_; }
  /// The ranks of this rank's half.
  const nn::SequenceRanks& sequence() const { return *sequence_; }
  /// This rank and the rank with the same share in the other half, in the order of the halves; null without CFG
  /// parallelism.
  Communicator* halves() const { return halves_.get(); }

 private:
  Communicator& world_;
  std::unique_ptr<Communicator> half_, half_layers_, halves_;
  std::unique_ptr<nn::SequenceRanks> sequence_;
};

}  // namespace nostos
