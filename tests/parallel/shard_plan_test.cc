// Tests shard plans: the reference plans, the design's examples, and properties over every size and rank count.
#include "parallel/shard_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"

namespace nostos::parallel {
namespace {

using Sizes = std::vector<int64_t>;

constexpr int64_t kPadMultiple = 32;  // of the reference plans

ShardPlan plan_of(PlanKind kind, int64_t height_px, int64_t width_px, int64_t ranks, int64_t heads = 30) {
  return make_plan({.grid = {height_px / 16, width_px / 16},
                    .ranks = ranks,
                    .kind = kind,
                    .heads = heads,
                    .pad_multiple = kPadMultiple});
}

/// The axis plan's rule, written once more as the design has it. Sizes by dealing tokens one after the other.
struct Expected {
  Axis axis;
  Sizes sizes;
  int64_t target, cost;
};

Expected expected_cut(Axis axis, const PlanRequest& request) {
  const auto& [height, width] = request.grid;
  const int64_t ranks = request.ranks;
  const int64_t along = axis == Axis::height ? height : width;
  const int64_t other = height + width - along;
  Expected cut{axis, Sizes(static_cast<size_t>(ranks)), 0, 0};
  for (int64_t token = 0; token < along; ++token) ++cut.sizes[static_cast<size_t>(token % ranks)];
  while (cut.target < cut.sizes[0] * other) cut.target += request.pad_multiple;
  cut.cost = cut.target * ranks - height * width;
  return cut;
}

Expected expected_plan(const PlanRequest& request) {
  const auto& [height, width] = request.grid;
  Expected by_height = expected_cut(Axis::height, request), by_width = expected_cut(Axis::width, request);
  const bool width_wins = by_width.cost < by_height.cost || (by_width.cost == by_height.cost && width > height);
  return width_wins ? by_width : by_height;
}

/// Calls check(height, width) for every size from 256 to 2048 pixels in steps of 16, in tokens.
template <class Check>
void for_every_size(const Check& check) {
  int64_t sizes = 0;
  for (int64_t height = 16; height <= 128; ++height) {
    for (int64_t width = 16; width <= 128; ++width, ++sizes) {
      check(height, width);
      if (testing::Test::HasFailure()) return;
    }
  }
  EXPECT_EQ(sizes, 12769);
}

/// Every index of the padded native sequence is on exactly one rank, and each rank has as many as its share says.
void expect_each_token_once(const ShardPlan& plan, std::vector<uint8_t>& seen) {
  const Grid& grid = plan.request.grid;
  const int64_t padded = plan.padded_tokens();
  ASSERT_TRUE(padded % plan.request.pad_multiple == 0 && padded >= grid.tokens() &&
              padded - grid.tokens() < plan.request.pad_multiple);
  seen.assign(static_cast<size_t>(padded), 0);
  for (int64_t rank = 0; rank < plan.request.ranks; ++rank) {
    const Share& share = plan.shares[static_cast<size_t>(rank)];
    int64_t rows = 0, pads = 0;
    for (const Range& run : native_runs(plan, rank)) {
      ASSERT_TRUE(run.begin >= 0 && run.count > 0 && run.end() <= padded);
      for (int64_t index = run.begin; index < run.end(); ++index) ++seen[static_cast<size_t>(index)];
      rows += run.count;
      pads += std::max(run.end() - std::max(run.begin, grid.tokens()), int64_t{0});
    }
    ASSERT_EQ(rows, share.active());
    ASSERT_EQ(pads, share.pads.count);
  }
  ASSERT_EQ(std::count(seen.begin(), seen.end(), 1), padded);
}

/// Ranges follow one another from 0 to `count`.
void expect_dealt(const std::vector<Range>& ranges, int64_t count) {
  int64_t at = 0;
  for (const Range& range : ranges) {
    ASSERT_EQ(range.begin, at);
    ASSERT_GE(range.count, 0);
    at = range.end();
  }
  ASSERT_EQ(at, count);
}

/// Besides, no two sizes differ by more than one, and larger ones come first.
void expect_dealt_evenly(const std::vector<Range>& ranges, int64_t count) {
  expect_dealt(ranges, count);
  for (const Range& range : ranges) {
    ASSERT_LE(ranges.front().count - range.count, 1);
    ASSERT_GE(ranges.front().count, range.count);
  }
  ASSERT_TRUE(std::ranges::is_sorted(ranges, std::greater{}, &Range::count));
}

template <class Member>
std::vector<Range> ranges_of(const ShardPlan& plan, Member member) {
  std::vector<Range> ranges;
  for (const Share& share : plan.shares) ranges.push_back(share.*member);
  return ranges;
}

void expect_token_plan(const ShardPlan& plan, std::vector<uint8_t>& seen) {
  const Grid& grid = plan.request.grid;
  expect_dealt_evenly(ranges_of(plan, &Share::rows), plan.padded_tokens());
  expect_dealt_evenly(ranges_of(plan, &Share::heads), plan.request.heads);
  expect_each_token_once(plan, seen);
  for (const Share& share : plan.shares) {
    ASSERT_EQ(share.idle, 0);
    ASSERT_EQ(share.active(), share.rows.count);
    if (share.image_tokens == 0) {
      ASSERT_EQ(share.bounds, Rectangle{});
      continue;
    }
    // The first and the last token lie in the first and the last row of the bounds.
    const int64_t last = share.rows.begin + share.image_tokens - 1;
    ASSERT_EQ(share.bounds.rows.begin, share.rows.begin / grid.width);
    ASSERT_EQ(share.bounds.rows.end() - 1, last / grid.width);
    ASSERT_EQ(share.bounds.columns, (Range{0, grid.width}));
  }
}

void expect_axis_plan(const ShardPlan& plan, std::vector<uint8_t>& seen) {
  const auto& [grid, ranks, kind, heads, patch, pad_multiple] = plan.request;
  const Expected expected = expected_plan(plan.request);
  ASSERT_EQ(plan.axis, expected.axis);
  ASSERT_EQ(plan.cut().sizes, expected.sizes);
  ASSERT_EQ(plan.cut().target, expected.target);
  ASSERT_EQ(plan.cut().cost, expected.cost);
  ASSERT_EQ(plan.cut().cost, std::min(plan.cuts[0].cost, plan.cuts[1].cost));

  expect_dealt_evenly(ranges_of(plan, &Share::heads), heads);
  expect_dealt(ranges_of(plan, &Share::pads), plan.padded_tokens() - grid.tokens());
  int64_t offset = 0, row = 0;
  bool idle_seen = false;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const Share& share = plan.shares[static_cast<size_t>(rank)];
    const int64_t size = expected.sizes[static_cast<size_t>(rank)];
    const bool by_height = expected.axis == Axis::height;
    const Range along = size > 0 ? Range{offset, size} : Range{};
    const Range other{0, size == 0 ? 0 : by_height ? grid.width : grid.height};
    ASSERT_EQ(share.bounds, (by_height ? Rectangle{along, other} : Rectangle{other, along}));
    const Rectangle latent = latent_bounds(plan, rank);
    ASSERT_EQ((by_height ? latent.rows : latent.columns), (Range{2 * along.begin, 2 * along.count}));
    ASSERT_EQ((by_height ? latent.columns : latent.rows), (Range{0, 2 * other.count}));
    ASSERT_EQ(share.image_tokens, size * other.count);
    ASSERT_EQ(share.rows, (Range{row, size > 0 ? expected.target : 0}));
    ASSERT_EQ(share.active() + share.idle, share.rows.count);
    // The first pad slots in rank order are the single-rank pads: none follows an idle one.
    ASSERT_FALSE(idle_seen && share.pads.count > 0);
    idle_seen |= share.idle > 0;
    offset += size;
    row = share.rows.end();
  }
  ASSERT_EQ(offset, expected.axis == Axis::height ? grid.height : grid.width);
  expect_each_token_once(plan, seen);
}

TEST(ShardPlan, EqualsTheReferencePlans) {
  std::ifstream file(NOSTOS_SOURCE_DIR "/tests/data/sp_plan.json");
  const nlohmann::json plans = nlohmann::json::parse(file);
  ASSERT_EQ(plans.size(), 104u);
  for (const auto& want : plans) {
    SCOPED_TRACE(want.dump());
    const int64_t height = want["height"], width = want["width"], ranks = want["ranks"];
    const ShardPlan axis = plan_of(PlanKind::axis, height, width, ranks);
    EXPECT_EQ(name(axis.axis), want["axis"].get<std::string>());
    EXPECT_EQ(axis.cut().sizes, want["sizes"].get<Sizes>());
    EXPECT_EQ(axis.cut().target, want["target_tokens"].get<int64_t>());
    EXPECT_EQ(axis.cut().cost, want["padding_tokens"].get<int64_t>());
    const ShardPlan token = plan_of(PlanKind::token, height, width, ranks);
    EXPECT_EQ(token.padded_tokens() - token.request.grid.tokens(), want["single_rank_padding_tokens"].get<int64_t>());
    nlohmann::json ranges = nlohmann::json::array();
    for (const Share& share : token.shares) ranges.push_back({share.rows.begin, share.rows.end()});
    EXPECT_EQ(ranges, want["token_ranges"]);
  }
}

TEST(ShardPlan, ChoosesAsTheDesignSays) {
  struct Case {
    int64_t width, height, ranks;
    Axis axis;
    Sizes sizes;
    int64_t target, cost;
    std::string_view reason;
  };
  const Case cases[] = {
      {1024, 1024, 2, Axis::height, {32, 32}, 2048, 0, "equal costs and sides, height first"},
      {720, 1280, 2, Axis::height, {40, 40}, 1824, 48, "smallest cost"},
      {1280, 720, 2, Axis::width, {40, 40}, 1824, 48, "smallest cost"},
      {1280, 720, 1, Axis::width, {80}, 3616, 16, "equal costs, longer axis"},
      {720, 1280, 1, Axis::height, {80}, 3616, 16, "equal costs, longer axis"},
      {720, 720, 2, Axis::height, {23, 22}, 1056, 87, "equal costs and sides, height first"},
      {768, 1344, 8, Axis::width, {6, 6, 6, 6, 6, 6, 6, 6}, 512, 64, "smallest cost"},
  };
  for (const Case& want : cases) {
    const ShardPlan plan = plan_of(PlanKind::axis, want.height, want.width, want.ranks);
    SCOPED_TRACE(testing::Message() << want.width << "x" << want.height << " on " << want.ranks);
    EXPECT_EQ(plan.axis, want.axis);
    EXPECT_EQ(plan.cut().sizes, want.sizes);
    EXPECT_EQ(plan.cut().target, want.target);
    EXPECT_EQ(plan.cut().cost, want.cost);
    EXPECT_EQ(plan.reason, want.reason);
  }
}

TEST(ShardPlan, DealsThePadsOfOneRankAndNoOthers) {
  // 720x720: 45x45 = 2025 tokens and 23 pads on one rank; rank 0 has 23 * 45 = 1035 of its 1056 rows, rank 1 990.
  const ShardPlan plan = plan_of(PlanKind::axis, 720, 720, 2);
  EXPECT_EQ(plan.shares[0].bounds, (Rectangle{{0, 23}, {0, 45}}));
  EXPECT_EQ(plan.shares[1].bounds, (Rectangle{{23, 22}, {0, 45}}));
  EXPECT_EQ(latent_bounds(plan, 1), (Rectangle{{46, 44}, {0, 90}}));
  EXPECT_EQ(plan.shares[0].pads, (Range{0, 21}));
  EXPECT_EQ(plan.shares[1].pads, (Range{21, 2}));
  EXPECT_EQ(plan.shares[0].idle, 0);
  EXPECT_EQ(plan.shares[1].idle, 64);
  EXPECT_EQ(native_runs(plan, 0), (std::vector<Range>{{0, 1035}, {2025, 21}}));
  EXPECT_EQ(native_runs(plan, 1), (std::vector<Range>{{1035, 990}, {2046, 2}}));
}

TEST(ShardPlan, EveryRectangleAlongWidthIsARunARow) {
  // 48 wide, 32 high: 3 columns and 2 rows of tokens, 26 pads.
  const ShardPlan plan = plan_of(PlanKind::axis, 32, 48, 3);
  ASSERT_EQ(plan.axis, Axis::width);
  EXPECT_EQ(native_runs(plan, 1), (std::vector<Range>{{1, 1}, {4, 1}}));
  EXPECT_EQ(native_runs(plan, 0), (std::vector<Range>{{0, 1}, {3, 1}, {6, 26}}));
}

TEST(ShardPlan, HoldsAtEverySizeOnOneToEightRanks) {
  std::vector<uint8_t> seen;
  for_every_size([&](int64_t height, int64_t width) {
    for (int64_t ranks = 1; ranks <= 8; ++ranks) {
      SCOPED_TRACE(testing::Message() << 16 * width << "x" << 16 * height << " on " << ranks);
      expect_token_plan(plan_of(PlanKind::token, 16 * height, 16 * width, ranks), seen);
      expect_axis_plan(plan_of(PlanKind::axis, 16 * height, 16 * width, ranks), seen);
    }
  });
}

TEST(ShardPlan, HoldsOnMoreRanksThanRowsTokensOrHeads) {
  std::vector<uint8_t> seen;
  const Grid grids[] = {{1, 1}, {1, 64}, {64, 1}, {2, 3}, {5, 7}, {13, 21}, {45, 45}, {512, 512}};
  for (const Grid& grid : grids) {
    for (int64_t ranks = 1; ranks <= 40; ++ranks) {
      for (const int64_t heads : {1, 6, 30}) {
        SCOPED_TRACE(testing::Message() << grid.height << "x" << grid.width << " tokens on " << ranks);
        PlanRequest request{.grid = grid, .ranks = ranks, .heads = heads, .pad_multiple = kPadMultiple};
        expect_token_plan(make_plan(request), seen);
        request.kind = PlanKind::axis;
        expect_axis_plan(make_plan(request), seen);
        if (HasFailure()) return;
      }
    }
  }
}

TEST(ShardPlan, HoldsForEveryPadMultiple) {
  std::vector<uint8_t> seen;
  for (const int64_t multiple : {1, 2, 7, 16, 64, 1000}) {
    for (const Grid& grid : {Grid{1, 1}, Grid{3, 7}, Grid{16, 16}, Grid{13, 21}, Grid{45, 80}}) {
      for (const int64_t ranks : {1, 2, 3, 5, 8, 23}) {
        SCOPED_TRACE(testing::Message() << grid.height << "x" << grid.width << " tokens on " << ranks << " padded to "
                                        << multiple);
        PlanRequest request{.grid = grid, .ranks = ranks, .heads = 6, .pad_multiple = multiple};
        expect_token_plan(make_plan(request), seen);
        request.kind = PlanKind::axis;
        expect_axis_plan(make_plan(request), seen);
        if (HasFailure()) return;
      }
    }
  }
}

TEST(ShardPlan, AMultipleOfOnePadsNothing) {
  for (const PlanKind kind : {PlanKind::token, PlanKind::axis}) {
    const ShardPlan plan = make_plan({.grid = {5, 7}, .ranks = 3, .kind = kind, .heads = 6});
    EXPECT_EQ(plan.padded_tokens(), 35);
    for (const Share& share : plan.shares) {
      EXPECT_EQ(share.pads.count, 0);
      EXPECT_EQ(share.active(), share.image_tokens);
    }
  }
  const ShardPlan axis = make_plan({.grid = {5, 7}, .ranks = 3, .kind = PlanKind::axis, .heads = 6});
  EXPECT_EQ(axis.cut().target, 14);  // of 2, 2 and 1 rows of 7 tokens; 3, 2 and 2 columns would make 15
  EXPECT_EQ(axis.shares[2].idle, 7);
  EXPECT_EQ(native_runs(axis, 2), (std::vector<Range>{{28, 7}}));
}

TEST(ShardPlan, RanksBeyondTokensAndHeadsHoldNothing) {
  const ShardPlan plan =
      make_plan({.grid = {1, 1}, .ranks = 40, .kind = PlanKind::axis, .heads = 6, .pad_multiple = kPadMultiple});
  EXPECT_EQ(plan.shares[0].pads, (Range{0, 31}));
  EXPECT_EQ(plan.shares[5].heads, (Range{5, 1}));
  for (int64_t rank = 6; rank < 40; ++rank) {
    const Share& share = plan.shares[static_cast<size_t>(rank)];
    EXPECT_EQ(share.rows.count + share.active() + share.idle + share.heads.count + share.bounds.area(), 0);
    EXPECT_TRUE(native_runs(plan, rank).empty());
    const ExchangeBytes bytes = exchange_bytes(plan, rank, 48, 4);
    EXPECT_EQ(bytes.sent() + bytes.received(), 0);
  }
  const ShardPlan token = make_plan({.grid = {1, 1}, .ranks = 40, .heads = 6, .pad_multiple = kPadMultiple});
  EXPECT_EQ(token.shares[31].pads, (Range{30, 1}));
  EXPECT_EQ(token.shares[32].active(), 0);
}

TEST(ShardPlan, DealsHeadsWhole) {
  const auto heads = [](int64_t count, int64_t ranks) {
    Sizes sizes;
    for (const Share& share : plan_of(PlanKind::token, 1024, 1024, ranks, count).shares)
      sizes.push_back(share.heads.count);
    return sizes;
  };
  EXPECT_EQ(heads(30, 4), (Sizes{8, 8, 7, 7}));
  EXPECT_EQ(heads(30, 8), (Sizes{4, 4, 4, 4, 4, 4, 3, 3}));
  EXPECT_EQ(heads(6, 8), (Sizes{1, 1, 1, 1, 1, 1, 0, 0}));
}

TEST(ShardPlan, CountsEveryElementThatChangesItsRank) {
  for (const PlanKind kind : {PlanKind::token, PlanKind::axis}) {
    for (const int64_t ranks : {1, 2, 3, 4, 7, 8, 30, 31}) {
      SCOPED_TRACE(testing::Message() << name(kind) << " " << ranks);
      const ShardPlan plan = plan_of(kind, 720, 1280, ranks);
      constexpr int64_t kCaption = 96, kReferences = 45;
      const std::vector<Range> captions = split(kCaption, ranks), references = split(kReferences, ranks);
      std::vector<ExchangeBytes> want(static_cast<size_t>(ranks));
      for (size_t of_rows = 0; of_rows < want.size(); ++of_rows) {
        for (size_t of_heads = 0; of_heads < want.size(); ++of_heads) {
          if (of_rows == of_heads) continue;
          const int64_t rows = plan.shares[of_rows].active() + captions[of_rows].count + references[of_rows].count;
          const int64_t bytes = rows * plan.shares[of_heads].heads.count * 128 * 2;
          want[of_rows].qkv_sent += 3 * bytes;
          want[of_heads].qkv_received += 3 * bytes;
          want[of_heads].output_sent += bytes;
          want[of_rows].output_received += bytes;
        }
      }
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const ExchangeBytes got = exchange_bytes(plan, rank, 128, 2, {kCaption, kReferences});
        const ExchangeBytes& sum = want[static_cast<size_t>(rank)];
        EXPECT_EQ(got.qkv_sent, sum.qkv_sent);
        EXPECT_EQ(got.qkv_received, sum.qkv_received);
        EXPECT_EQ(got.output_sent, sum.output_sent);
        EXPECT_EQ(got.output_received, sum.output_received);
      }
    }
  }
  // 2048 rows each send 15 heads of q, k and v away, and get 15 heads of the output: 128 wide, 2 bytes.
  const ExchangeBytes bytes = exchange_bytes(plan_of(PlanKind::token, 1024, 1024, 2), 0, 128, 2);
  EXPECT_EQ(bytes.qkv_sent, 23592960);
  EXPECT_EQ(bytes.output_sent, 7864320);
}

TEST(ShardPlan, RefusesWhatCannotBeDealt) {
  const PlanRequest good{.grid = {4, 4}, .ranks = 2, .heads = 2};
  for (const auto& spoil : std::vector<void (*)(PlanRequest&)>{
           [](PlanRequest& r) { r.grid.height = 0; }, [](PlanRequest& r) { r.grid.width = -1; },
           [](PlanRequest& r) { r.ranks = 0; }, [](PlanRequest& r) { r.heads = 0; },
           [](PlanRequest& r) { r.patch = 0; }, [](PlanRequest& r) { r.pad_multiple = 0; }}) {
    PlanRequest bad = good;
    spoil(bad);
    try {
      make_plan(bad);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    }
  }
  EXPECT_THROW(native_runs(make_plan(good), 2), Error);
  EXPECT_THROW(split(-1, 2), Error);
}

}  // namespace
}  // namespace nostos::parallel
