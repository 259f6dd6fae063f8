// Implements the grouping of ranks.
#include "pipeline/rank_groups.h"

#include <numeric>
#include <vector>

#include "base/error.h"

namespace nostos {

RankGroups::RankGroups(Communicator& world, const Parallelism& parallelism) : world_(world) {
  check(parallelism.ranks() == world.world(), "the degrees make up the world");
  const int sharers = static_cast<int>(parallelism.ulysses * parallelism.ring);
  constexpr auto kShared = GroupCommunicator::Pace::shared;
  Communicator *half = &world, *layers = &world;
  if (parallelism.cfg > 1) {
    std::vector<int> members(static_cast<size_t>(sharers));
    std::iota(members.begin(), members.end(), world.rank() / sharers * sharers);
    half_ = std::make_unique<GroupCommunicator>(world, members, kShared);
    half_layers_ = std::make_unique<GroupCommunicator>(world, members);  // a step may need one half's passes alone
    const int place = world.rank() % sharers;
    halves_ = std::make_unique<GroupCommunicator>(world, std::vector{place, place + sharers}, kShared);
    half = half_.get();
    layers = half_layers_.get();
  }
  sequence_ = std::make_unique<nn::SequenceRanks>(*half, *layers, parallelism.ring);
}

}  // namespace nostos
