// Implements the token plan and the axis plan.
#include "parallel/shard_plan.h"

#include <algorithm>

#include "base/error.h"
#include "base/rounding.h"

namespace nostos::parallel {
namespace {

AxisCut cut_along(Axis axis, const PlanRequest& request) {
  const Grid& grid = request.grid;
  const int64_t along = axis == Axis::height ? grid.height : grid.width;
  const int64_t other = axis == Axis::height ? grid.width : grid.height;
  AxisCut cut{.axis = axis};
  for (const Range& part : split(along, request.ranks)) cut.sizes.push_back(part.count);
  cut.target = round_up(std::ranges::max(cut.sizes) * other, request.pad_multiple);
  cut.cost = cut.target * request.ranks - grid.tokens();
  return cut;
}

void choose_axis(ShardPlan& plan) {
  const Grid& grid = plan.request.grid;
  const auto& [height, width] = plan.cuts;
  if (height.cost != width.cost) {
    plan.axis = height.cost < width.cost ? Axis::height : Axis::width;
    plan.reason = "smallest cost";
  } else if (grid.height != grid.width) {
    plan.axis = grid.height > grid.width ? Axis::height : Axis::width;
    plan.reason = "equal costs, longer axis";
  } else {
    plan.axis = Axis::height;
    plan.reason = "equal costs and sides, height first";
  }
}

/// The part of `range` in [begin, end), counted from `begin`.
Range overlap(const Range& range, int64_t begin, int64_t end) {
  const int64_t first = std::clamp(range.begin, begin, end);
  return {first - begin, std::clamp(range.end(), begin, end) - first};
}

Share token_share(const PlanRequest& request, const Range& rows) {
  const Grid& grid = request.grid;
  Share share{.rows = rows};
  const Range image = overlap(rows, 0, grid.tokens());
  share.image_tokens = image.count;
  share.pads = overlap(rows, grid.tokens(), request.padded_tokens());
  if (image.count > 0) {
    const int64_t first = image.begin / grid.width;
    const int64_t last = (image.end() - 1) / grid.width;
    share.bounds = {{first, last - first + 1}, {0, grid.width}};
  }
  return share;
}

std::vector<Share> axis_shares(const PlanRequest& request, const AxisCut& cut) {
  const Grid& grid = request.grid;
  std::vector<Share> shares;
  int64_t offset = 0, row = 0, pad = 0;
  const int64_t single_rank_pads = request.padded_tokens() - grid.tokens();
  for (const int64_t size : cut.sizes) {
    Share share;
    if (size > 0) {
      const Range along{offset, size};
      share.bounds = cut.axis == Axis::height ? Rectangle{along, {0, grid.width}} : Rectangle{{0, grid.height}, along};
      share.image_tokens = share.bounds.area();
      share.rows = {row, cut.target};
      share.pads = {pad, std::min(cut.target - share.image_tokens, single_rank_pads - pad)};
      share.idle = cut.target - share.active();
    } else {
      share.rows.begin = row;
      share.pads.begin = pad;
    }
    offset += size;
    row = share.rows.end();
    pad = share.pads.end();
    shares.push_back(share);
  }
  check(pad == single_rank_pads, "targets are multiples of the pad multiple, so every single-rank pad finds a slot");
  return shares;
}

/// Adds `run` to `runs`, as part of the last one where it goes on from there.
void add_run(std::vector<Range>& runs, const Range& run) {
  if (run.count == 0) return;
  if (!runs.empty() && runs.back().end() == run.begin)
    runs.back().count += run.count;
  else
    runs.push_back(run);
}

const Share& share_of(const ShardPlan& plan, int64_t rank) {
  check(rank >= 0 && rank < plan.request.ranks, "the plan has this rank");
  return plan.shares[static_cast<size_t>(rank)];
}

}  // namespace

std::string_view name(PlanKind kind) { return kind == PlanKind::token ? "token" : "axis"; }

std::string_view name(Axis axis) { return axis == Axis::height ? "height" : "width"; }

int64_t PlanRequest::padded_tokens() const { return round_up(grid.tokens(), pad_multiple); }

std::vector<Range> split(int64_t count, int64_t parts) {
  check(count >= 0 && parts >= 1, "split() deals 0 or more things to 1 or more parts");
  std::vector<Range> ranges;
  int64_t begin = 0;
  for (int64_t part = 0; part < parts; ++part) {
    ranges.push_back({begin, count / parts + (part < count % parts ? 1 : 0)});
    begin = ranges.back().end();
  }
  return ranges;
}

ShardPlan make_plan(const PlanRequest& request) {
  const Grid& grid = request.grid;
  require(grid.height >= 1 && grid.width >= 1 && request.ranks >= 1 && request.heads >= 1 && request.patch >= 1 &&
              request.pad_multiple >= 1,
          ErrorKind::invalid_input,
          "a shard plan of {}x{} tokens (height x width), {} ranks, {} heads, patch {} and pad multiple {} is "
          "impossible: each must be at least 1",
          grid.height, grid.width, request.ranks, request.heads, request.patch, request.pad_multiple);
  ShardPlan plan{.request = request, .cuts = {cut_along(Axis::height, request), cut_along(Axis::width, request)}};
  choose_axis(plan);
  if (request.kind == PlanKind::token) {
    for (const Range& rows : split(plan.padded_tokens(), request.ranks))
      plan.shares.push_back(token_share(request, rows));
  } else {
    plan.shares = axis_shares(request, plan.cut());
  }
  const std::vector<Range> heads = split(request.heads, request.ranks);
  for (size_t rank = 0; rank < heads.size(); ++rank) plan.shares[rank].heads = heads[rank];
  return plan;
}

std::vector<Range> native_runs(const ShardPlan& plan, int64_t rank) {
  const Share& share = share_of(plan, rank);
  const Grid& grid = plan.request.grid;
  std::vector<Range> runs;
  if (plan.request.kind == PlanKind::token) {
    add_run(runs, share.rows);
    return runs;
  }
  const auto& [rows, columns] = share.bounds;
  for (int64_t row = rows.begin; row < rows.end(); ++row)
    add_run(runs, {row * grid.width + columns.begin, columns.count});
  add_run(runs, {grid.tokens() + share.pads.begin, share.pads.count});
  return runs;
}

Rectangle latent_bounds(const ShardPlan& plan, int64_t rank) {
  const auto& [rows, columns] = share_of(plan, rank).bounds;
  const int64_t patch = plan.request.patch;
  return {{patch * rows.begin, patch * rows.count}, {patch * columns.begin, patch * columns.count}};
}

ExchangeBytes exchange_bytes(const ShardPlan& plan, int64_t rank, int64_t head_dim, int64_t element_bytes,
                             const std::vector<int64_t>& beside) {
  const Share& share = share_of(plan, rank);
  int64_t rows = share.active(), all_rows = plan.padded_tokens();
  for (const int64_t count : beside) {
    rows += split(count, plan.request.ranks)[static_cast<size_t>(rank)].count;
    all_rows += count;
  }
  const int64_t head_bytes = head_dim * element_bytes;
  const int64_t others_heads = plan.request.heads - share.heads.count;
  const int64_t outgoing = rows * others_heads * head_bytes;
  const int64_t incoming = (all_rows - rows) * share.heads.count * head_bytes;
  return {.qkv_sent = 3 * outgoing, .qkv_received = 3 * incoming, .output_sent = incoming, .output_received = outgoing};
}

}  // namespace nostos::parallel
