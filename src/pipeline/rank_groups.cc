// Implements the grouping of ranks.
#include "pipeline/rank_groups.h"

#include <numeric>
#include <vector>

#include "base/error.h"

namespace nostos {

RankGroups::RankGroups(Communicator& world, const Parallelism& parallelism) : world_(world) {
  check(parallelism.ranks() == world.world(), "the degrees make up the world");
  const int sharers = static_cast<int>(parallelism.ulysses * parallelism.ring);
  Communicator* half = &world;
  if (parallelism.cfg > 1) {
    std::vector<int> members(static_cast<size_t>(sharers));
    std::iota(members.begin(), members.end(), world.rank() / sharers * sharers);
    half_ = std::make_unique<GroupCommunicator>(world, members);
    const int place = world.rank() % sharers;
    halves_ = std::make_unique<GroupCommunicator>(world, std::vector{place, place + sharers},
                                                  GroupCommunicator::Pace::shared);
    half = half_.get();
  }
  sequence_ = std::make_unique<nn::SequenceRanks>(*half, parallelism.ring);
}

}  // namespace nostos
