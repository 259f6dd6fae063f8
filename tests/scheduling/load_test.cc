// Tests the policy under load, beside servers of a fixed degree.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <array>

#include "scheduling/simulator.h"

namespace nostos::scheduling {
namespace {

constexpr Work kSquare{.rows = 4160, .steps = 8};  // 1024x1024
constexpr unsigned kSeed = 7;
constexpr std::array<double, 3> kLoads{0.3, 0.6, 0.9};

Simulation elastic(int places, Policy policy = Policy::automatic) {
  return {.places = places,
          .decide = [policy](const State& state, const CostModel& costs) { return decide(state, costs, policy); }};
}

Simulation rigid(int places, Decision (*rule)(const State&)) {
  return {.places = places,
          .decide = [rule](const State& state, const CostModel&) { return rule(state); },
          .checks_promises = false};
}

struct Compared {
  Outcome elastic, fixed, replicas;

  std::string text() const {
    std::string line;
    for (const Outcome* one : {&elastic, &fixed, &replicas})
      line += fmt::format(" {:8.0f} {:8.0f}", one->mean_ms(), one->p95_ms());
    return line + fmt::format("  {} re-deals", elastic.redeals);
  }
};

Compared compare(int places, double load, const std::vector<Work>& works, size_t jobs = 4000) {
  const std::vector<Arrival> arrivals = poisson_arrivals(jobs, load, places, works, kSeed);
  const Compared all{simulate(elastic(places), arrivals), simulate(rigid(places, fixed_degree), arrivals),
                     simulate(rigid(places, replicas), arrivals)};
  fmt::print("{} places, load {:.1f}: elastic, fixed degree, replicas (mean, p95 in ms):{}\n", places, load,
             all.text());
  return all;
}

TEST(Load, TwoPlacesAreNoWorseThanTheBetterOfTheFixedWays) {
  for (const double load : kLoads) {
    SCOPED_TRACE(load);
    const Compared all = compare(2, load, {kSquare}, 12'000);
    EXPECT_LE(all.elastic.mean_ms(), std::min(all.fixed.mean_ms(), all.replicas.mean_ms()));
    EXPECT_LE(all.elastic.p95_ms(), std::min(all.fixed.p95_ms(), all.replicas.p95_ms()));
  }
}

// The last of a hundred is a large job here, which small ones pass: the mean alone says what is better.
TEST(Load, MixedSizesAreDrawnSoonerInTheMean) {
  for (const double load : kLoads) {
    SCOPED_TRACE(load);
    const Compared all =
        compare(2, load, {kSquare, {.rows = 1088, .steps = 8}, {.rows = 4160, .passes = 2, .steps = 20}});
    EXPECT_LT(all.elastic.mean_ms(), std::min(all.fixed.mean_ms(), all.replicas.mean_ms()));
  }
}

// The cost model begins with the proportions of another machine, and sees steps that vary.
TEST(Load, AModelThatLearnsDoesAsWell) {
  CostModel slow;
  slow.observe_step(kSquare, 1, 3000);
  for (const double load : kLoads) {
    SCOPED_TRACE(load);
    std::vector<Arrival> arrivals = poisson_arrivals(1500, load, 2, {kSquare}, 5);
    for (Arrival& arrival : arrivals) arrival.at_ms *= slow.total_ms(kSquare, 1) / CostModel().total_ms(kSquare, 1);
    Simulation simulation = elastic(2);
    simulation.truth = slow;
    simulation.noise = 0.05;
    simulation.learns = true;
    const double mean = simulate(simulation, arrivals).mean_ms();
    for (auto* const rule : {fixed_degree, replicas}) {
      Simulation other = rigid(2, rule);
      other.truth = slow;
      other.noise = 0.05;
      EXPECT_LE(mean, 1.01 * simulate(other, arrivals).mean_ms());  // their steps vary otherwise
    }
  }
}

TEST(Load, FourAndEightPlacesAreSoonerThanEitherFixedWayInTheMean) {
  for (const int places : {4, 8}) {
    for (const double load : kLoads) {
      SCOPED_TRACE(load);
      const Compared all = compare(places, load, {kSquare});
      EXPECT_LE(all.elastic.mean_ms(), 1.001 * std::min(all.fixed.mean_ms(), all.replicas.mean_ms()));
    }
  }
}

}  // namespace
}  // namespace nostos::scheduling
