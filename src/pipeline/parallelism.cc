// Implements the arithmetic of ranks and degrees.
#include "pipeline/parallelism.h"

#include "base/error.h"

namespace nostos {
namespace {

/// \return the degree, 1 where it is not given. \throws Error invalid_input unless it is 1 to `most`
int64_t checked(std::string_view name, const std::optional<int64_t>& value, int64_t most) {
  require(!value || (*value >= 1 && *value <= most), ErrorKind::invalid_input, "{} {} is out of range; use 1 to {}",
          name, value.value_or(1), most);
  return value.value_or(1);
}

}  // namespace

Parallelism resolve_parallelism(std::optional<int64_t> num_ranks, std::optional<int64_t> ulysses,
                                std::optional<int64_t> ring, std::optional<int64_t> cfg, parallel::PlanKind plan,
                                std::string_view ranks_name) {
  Parallelism result{.ulysses = checked("--ulysses-degree", ulysses, kMaxRanks),
                     .ring = checked("--ring-degree", ring, kMaxRanks),
                     .cfg = checked("--cfg-parallel-degree", cfg, 2),
                     .plan = plan};
  const int64_t ranks = checked(ranks_name, num_ranks, kMaxRanks);
  if (num_ranks && !ulysses) {
    const int64_t others = result.cfg * result.ring;
    require(ranks % others == 0, ErrorKind::invalid_input,
            "{} {} is no multiple of --cfg-parallel-degree {} x --ring-degree {} = {}", ranks_name, ranks, result.cfg,
            result.ring, others);
    result.ulysses = ranks / others;
  }
  require(!num_ranks || result.ranks() == ranks, ErrorKind::invalid_input,
          "{} {} is not --cfg-parallel-degree {} x --ring-degree {} x --ulysses-degree {} = {}", ranks_name, ranks,
          result.cfg, result.ring, result.ulysses, result.ranks());
  require(result.ranks() <= kMaxRanks, ErrorKind::invalid_input,
          "--cfg-parallel-degree {} x --ring-degree {} x --ulysses-degree {} = {} ranks are too many; use {} at most",
          result.cfg, result.ring, result.ulysses, result.ranks(), kMaxRanks);
  return result;
}

}  // namespace nostos
