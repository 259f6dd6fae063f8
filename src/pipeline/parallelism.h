// Owns how many ranks share an image, and in which way. Programs resolve the user's degrees with it before they make an
// Engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "parallel/shard_plan.h"

namespace nostos {

inline constexpr int64_t kMaxRanks = 64;

/// How the ranks of a run share the work: world = cfg * ring * ulysses.
struct Parallelism {
  int64_t ulysses = 1;  ///< ranks that share the heads; each also holds a part of the tokens
  int64_t ring = 1;     ///< groups of them around which keys and values travel
  int64_t cfg = 1;      ///< 1, or 2: the two halves of classifier-free guidance at once
  parallel::PlanKind plan = parallel::PlanKind::token;

  int64_t ranks() const { return ulysses * ring * cfg; }
  friend bool operator==(const Parallelism&, const Parallelism&) = default;
};

/// Fills in the degrees that were not given. ring and cfg become 1, and ulysses becomes what the number of ranks
/// leaves, so that nothing changes the image's bits unasked. Without a number of ranks, the product of the degrees is
/// the number of ranks.
/// \param ranks_name how messages name `num_ranks`, e.g. "mpirun -n"
/// \throws Error invalid_input where the degrees do not multiply to the number of ranks, with the arithmetic; for a
/// degree below 1, a cfg above 2, and more than kMaxRanks ranks
Parallelism resolve_parallelism(std::optional<int64_t> num_ranks, std::optional<int64_t> ulysses,
                                std::optional<int64_t> ring, std::optional<int64_t> cfg, parallel::PlanKind plan,
                                std::string_view ranks_name = "--num-gpus");

}  // namespace nostos
