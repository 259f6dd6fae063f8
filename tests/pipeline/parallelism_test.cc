// Tests how ranks and degrees fill each other in, and what is refused.
#include "pipeline/parallelism.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace nostos {
namespace {

using parallel::PlanKind;
using Given = std::optional<int64_t>;

Parallelism resolve(Given ranks, Given ulysses, Given ring = {}, Given cfg = {}) {
  return resolve_parallelism(ranks, ulysses, ring, cfg, PlanKind::token);
}

std::string refusal(Given ranks, Given ulysses, Given ring = {}, Given cfg = {}) {
  try {
    resolve(ranks, ulysses, ring, cfg);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    return error.what();
  }
  return "accepted";
}

TEST(Parallelism, OneRankIfNothingIsGiven) { EXPECT_EQ(resolve({}, {}), Parallelism{}); }

TEST(Parallelism, UlyssesIsWhatTheRanksLeave) {
  EXPECT_EQ(resolve(6, {}), (Parallelism{.ulysses = 6}));
  EXPECT_EQ(resolve(8, {}, 2), (Parallelism{.ulysses = 4, .ring = 2}));
  EXPECT_EQ(resolve(8, {}, 2, 2), (Parallelism{.ulysses = 2, .ring = 2, .cfg = 2}));
}

TEST(Parallelism, DegreesGiveTheRanks) {
  EXPECT_EQ(resolve({}, 3, 2, 2).ranks(), 12);
  EXPECT_EQ(resolve({}, {}, 4), (Parallelism{.ring = 4}));
  EXPECT_EQ(resolve(12, 3, 2, 2).ranks(), 12);
  EXPECT_EQ(resolve({}, 64).ranks(), 64);
}

TEST(Parallelism, RefusalsShowTheArithmetic) {
  EXPECT_EQ(refusal(8, 3, {}, 2),
            "--num-gpus 8 is not --cfg-parallel-degree 2 x --ring-degree 1 x --ulysses-degree 3 = 6");
  EXPECT_EQ(refusal(9, {}, 2), "--num-gpus 9 is no multiple of --cfg-parallel-degree 1 x --ring-degree 2 = 2");
  EXPECT_EQ(refusal({}, 16, 8),
            "--cfg-parallel-degree 1 x --ring-degree 8 x --ulysses-degree 16 = 128 ranks are too many; use 64 at most");
  EXPECT_EQ(refusal({}, 0), "--ulysses-degree 0 is out of range; use 1 to 64");
  EXPECT_EQ(refusal({}, {}, -1), "--ring-degree -1 is out of range; use 1 to 64");
  EXPECT_EQ(refusal({}, {}, {}, 3), "--cfg-parallel-degree 3 is out of range; use 1 to 2");
  EXPECT_EQ(refusal(65, {}), "--num-gpus 65 is out of range; use 1 to 64");
}

}  // namespace
}  // namespace nostos
