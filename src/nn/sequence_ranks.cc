// Implements the groups of a sequence's ranks.
#include "nn/sequence_ranks.h"

#include <algorithm>

#include "base/error.h"

namespace nostos::nn {
namespace {

using parallel::Range;

/// Rows travel without being packed where they lie in so few runs: an image by the token plan is one, by a cut along
/// the height two, and by one along the width as many as it has rows of tokens; each segment beside it is one more.
constexpr size_t kMaxRuns = 4;

std::vector<int> consecutive(int first, int stride, int count) {
  std::vector<int> ranks(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) ranks[static_cast<size_t>(i)] = first + i * stride;
  return ranks;
}

}  // namespace

SequenceRanks::SequenceRanks(Communicator& ranks, Communicator& layers, int64_t ring_degree) : ranks_(ranks) {
  check(ring_degree >= 1 && ranks.world() % ring_degree == 0, "the ring degree divides the ranks");
  const int ring = static_cast<int>(ring_degree), ulysses = ranks.world() / ring;
  const int group = ranks.rank() / ulysses, place = ranks.rank() % ulysses;
  constexpr auto kPace = GroupCommunicator::Pace::shared;
  ulysses_ = std::make_unique<GroupCommunicator>(layers, consecutive(group * ulysses, 1, ulysses), kPace);
  ring_ = std::make_unique<GroupCommunicator>(layers, consecutive(place, ulysses, ring), kPace);
}

SequenceGroup::SequenceGroup(const SequenceRanks& ranks, const std::vector<std::vector<Range>>& runs, int64_t heads,
                             int64_t head_dim)
    : ranks(&ranks), heads(heads), head_dim(head_dim), rows_of_groups(static_cast<size_t>(ranks.ring().world())) {
  check(std::ssize(runs) == ranks.all().world(), "every rank has its rows");
  struct Piece {
    Range rows;
    size_t member;
    int64_t at;  ///< first row in the member's own order
  };
  std::vector<Piece> pieces;
  const std::vector<Range> head_ranges = parallel::split(heads, ranks.ulysses().world());
  for (int rank = 0; rank < ranks.all().world(); ++rank) {
    const bool is_member = ranks.group_of(rank) == ranks.ring().rank();
    int64_t at = 0;
    for (const Range& run : runs[static_cast<size_t>(rank)]) {
      if (is_member) pieces.push_back({run, members.size(), at});
      at += run.count;
    }
    rows_of_groups[static_cast<size_t>(ranks.group_of(rank))] += at;
    if (is_member) members.push_back({head_ranges[members.size()], at, {}});
  }
  // The group's rows stand in the order of the whole sequence: one rank would sum over keys in that order.
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.rows.begin < b.rows.begin; });
  int64_t to = 0;
  for (const Piece& piece : pieces) {
    members[piece.member].into_group.push_back({piece.at, to, piece.rows.count});
    to += piece.rows.count;
  }
  for (const Member& member : members) is_scattered = is_scattered || member.into_group.size() > kMaxRuns;
}

}  // namespace nostos::nn
