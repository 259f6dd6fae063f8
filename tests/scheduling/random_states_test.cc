// Tests the policy's promises in states that nobody thought of.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "scheduling/invariants.h"
#include "scheduling/policy.h"

namespace nostos::scheduling {
namespace {

class RandomStates {
 public:
  explicit RandomStates(unsigned seed) : random_(seed) {}

  int64_t number(int64_t least, int64_t most) { return std::uniform_int_distribution<int64_t>(least, most)(random_); }

  Work work() {
    const int64_t images = number(1, 4);
    return {.rows = number(1, 20000), .passes = images * number(1, 2), .images = images, .steps = number(1, 50)};
  }

  CostModel costs() {
    CostModel costs;
    for (int64_t i = number(0, 20); i > 0; --i)
      costs.observe_step(work(), static_cast<int>(number(1, 8)), static_cast<double>(number(1, 100000)) / 10);
    return costs;
  }

  State state() {
    State state{.healthy = std::vector<bool>(static_cast<size_t>(number(1, 8)), true),
                .lanes = {},
                .waiting = {},
                .demand = {static_cast<double>(number(0, 100)) / 1e5, static_cast<double>(number(0, 150)) / 100}};
    deal(state);
    for (int64_t i = number(0, 3) * number(0, 30); i > 0; --i) {
      WaitingJob job{std::to_string(i), work(), number(0, 2), number(1, 8)};
      state.waiting.push_back(job);
    }
    return state;
  }

 private:
  /// Deals some places to lanes, loses some, and leaves some free.
  void deal(State& state) {
    std::vector<std::vector<int>> lanes(static_cast<size_t>(number(1, 4)));
    for (size_t place = 0; place < state.healthy.size(); ++place) {
      const int64_t fate = number(0, 5);
      if (fate == 0) state.healthy[place] = false;
      if (fate > 2) lanes[static_cast<size_t>(number(0, std::ssize(lanes) - 1))].push_back(static_cast<int>(place));
    }
    for (const std::vector<int>& places : lanes) {
      if (places.empty()) continue;
      const Work drawn = work();
      state.lanes.push_back({places, drawn, number(0, drawn.steps)});
    }
  }

  std::mt19937 random_;
};

TEST(RandomStates, DecisionsKeepTheirPromises) {
  for (unsigned seed = 0; seed < 4000; ++seed) {
    SCOPED_TRACE(seed);
    RandomStates random(seed);
    const State state = random.state();
    const CostModel costs = random.costs();
    for (const Policy policy : {Policy::latency, Policy::throughput, Policy::automatic})
      expect_keeps_promises(state, decide(state, costs, policy), costs);
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

// A decision that is carried out, and what follows from it, comes to rest: nothing goes to and fro.
TEST(RandomStates, NothingFlaps) {
  for (unsigned seed = 0; seed < 4000; ++seed) {
    SCOPED_TRACE(seed);
    RandomStates random(seed);
    State state = random.state();
    const CostModel costs = random.costs();
    for (const Policy policy : {Policy::latency, Policy::throughput, Policy::automatic}) {
      State now = state;
      const size_t places = state.healthy.size();
      size_t rounds = 0;
      std::vector<size_t> redeals(places);
      for (;; ++rounds) {
        ASSERT_LE(rounds, 2 * places);
        const Decision decision = decide(now, costs, policy);
        bool rests = decision.starts.empty();
        for (size_t i = 0; i < now.lanes.size(); ++i) {
          const bool stays = decision.lanes[i] == now.lanes[i].places;
          redeals[i] += stays ? 0 : 1;
          rests = rests && stays;
        }
        if (rests) break;
        now = carried_out(now, decision);
      }
      for (const size_t count : redeals) EXPECT_LE(count, 3U);
    }
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

}  // namespace
}  // namespace nostos::scheduling
