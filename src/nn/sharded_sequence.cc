// Implements sequences whose rows are dealt to ranks.
#include "nn/sharded_sequence.h"

#include <type_traits>
#include <utility>

#include "base/error.h"

namespace nostos::nn {

ShardedSequence::ShardedSequence(std::vector<SegmentRows> segments) : segments_(std::move(segments)) {
  for (const SegmentRows& segment : segments_) rows_ += segment.local.count;
  runs_ = {{0, rows_}};
}

ShardedSequence::ShardedSequence(std::vector<SegmentRows> segments, const SequenceRanks& ranks,
                                 const std::vector<std::vector<Range>>& runs, int64_t heads, int64_t head_dim)
    : ShardedSequence(std::move(segments)) {
  group_.emplace(ranks, runs, heads, head_dim);
  runs_ = runs[static_cast<size_t>(ranks.all().rank())];
  check(group_->self().rows == rows_, "the segments have the rows of the runs");
}

ShardedSequence::Scratch ShardedSequence::take(Arena& arena, DType dtype) const {
  if (!group_) return {};
  if (SharedMemoryExchange::serves(*group_, arena.device(), dtype))
    return SharedMemoryExchange::take(arena, *group_, dtype);
  if (PackedExchange::serves(*group_, arena.device(), dtype)) return PackedExchange::take(arena, *group_, dtype);
  return HeadMajorExchange::take(arena, *group_, dtype);
}

void ShardedSequence::attend(Context& ctx, const SplitHeads& split, const ops::Scoring& scoring, const Scratch& scratch,
                             View mixed) const {
  std::visit(
      [&]<class Exchange>(const Exchange& exchange) {
        if constexpr (std::is_same_v<Exchange, std::monostate>)
          check(false, "a sequence of one rank has no exchange");
        else
          exchange.attend(ctx, *group_, split, scoring, mixed);
      },
      scratch);
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

std::vector<StreamRows> stream_rows(std::span<const ShardedSequence* const> sequences, size_t streams) {
  std::vector<StreamRows> all;
  int64_t begin = 0;
  for (const ShardedSequence* sequence : sequences) {
    for (const SegmentRows& segment : sequence->segments()) {
      const size_t stream = streams == 1 ? 0 : segment.stream;
      check(stream < streams, "a layer has weights for every stream of its sequences");
      const int64_t count = segment.local.count;
      if (count == 0) continue;
      if (!all.empty() && all.back().stream == stream)
        all.back().rows.count += count;
      else
        all.push_back({stream, {begin, count}});
      begin += count;
    }
  }
  return all;
}

}  // namespace nostos::nn
