// Implements how an image's tokens, and the rows beside them, are dealt to ranks and gathered.
#include "nn/sequence_parallel.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"

namespace nostos::nn {

using parallel::Range;

SequenceParallel::SequenceParallel(parallel::ShardPlan plan, int64_t head_dim)
    : plan_(std::move(plan)), head_dim_(head_dim) {
  check(is_alone(), "the plan is for one rank");
  deal_tokens();
}

SequenceParallel::SequenceParallel(const SequenceRanks& ranks, parallel::ShardPlan plan, int64_t head_dim)
    : ranks_(&ranks), plan_(std::move(plan)), head_dim_(head_dim) {
  check(plan_.request.ranks == ranks.all().world(), "the plan is for as many ranks as there are");
  deal_tokens();
}

void SequenceParallel::deal_tokens() {
  image_ = sequence(std::array{Segment{.is_image = true}});
  int64_t from = 0;
  for (int64_t peer = 0; peer < plan_.request.ranks; ++peer) {
    ranks_tokens_.push_back({from, plan_.shares[static_cast<size_t>(peer)].image_tokens});
    int64_t at = 0;
    for (const Range& run : parallel::native_runs(plan_, peer)) {
      const int64_t real = std::min(run.end(), grid().tokens()) - run.begin;
      if (real <= 0) continue;  // pads stand last
      to_native_.push_back({from, run.begin, real});
      if (static_cast<size_t>(peer) == rank()) to_local_.push_back({run.begin, at, real});
      from += real;
      at += real;
    }
  }
}

ShardedSequence SequenceParallel::sequence(std::span<const Segment> segments) const {
  std::vector<std::vector<Range>> runs(plan_.shares.size());
  std::vector<SegmentRows> own;
  int64_t begin = 0, held = 0;
  for (const Segment& segment : segments) {
    const std::vector<Range> beside = parallel::split(segment.rows, plan_.request.ranks);
    const int64_t rows = segment.is_image ? plan_.padded_tokens() : segment.rows;
    int64_t local = 0;
    for (size_t peer = 0; peer < runs.size(); ++peer) {
      for (const Range& run :
           segment.is_image ? parallel::native_runs(plan_, static_cast<int64_t>(peer)) : std::vector{beside[peer]}) {
        if (run.count == 0) continue;
        runs[peer].push_back({begin + run.begin, run.count});
        if (peer == rank()) local += run.count;
      }
    }
    own.push_back({{begin, rows}, {held, local}, segment.stream});
    begin += rows;
    held += local;
  }
  if (is_alone()) return ShardedSequence(std::move(own));
  return {std::move(own), *ranks_, runs, plan_.request.heads, head_dim_};
}

Range SequenceParallel::beside_rows(int64_t rows) const { return parallel::split(rows, plan_.request.ranks)[rank()]; }

void SequenceParallel::cut_tokens(Context& ctx, ConstView whole, View local) const {
  const int64_t width = whole.shape()[1];
  ops::copy_rows(ctx, whole.reshape({1, whole.shape()[0], width}), local.reshape({1, local.shape()[0], width}),
                 to_local_);
}

void SequenceParallel::gather_tokens(Context& ctx, ConstView local, View scratch, View whole) const {
  const int64_t width = whole.shape()[1];
  if (is_alone()) {
    ops::convert(ctx, local, whole);
    return;
  }
  const size_t token_bytes = static_cast<size_t>(width) * size_bytes(whole.dtype());
  std::vector<Part> parts;
  for (const Range& tokens : ranks_tokens_)
    parts.push_back({static_cast<size_t>(tokens.begin) * token_bytes, static_cast<size_t>(tokens.count) * token_bytes});
  ranks_->all().all_gather(device_bytes(ctx, local), device_bytes(ctx, scratch), parts).wait();
  ops::copy_rows(ctx, scratch.reshape({1, scratch.shape()[0], width}), whole.reshape({1, whole.shape()[0], width}),
                 to_native_);
}

}  // namespace nostos::nn
