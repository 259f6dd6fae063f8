// Implements what the stages of a drawing share.
#include "pipeline/drawing.h"

#include "pipeline/report.h"

namespace nostos {
namespace {

std::vector<Generation> results_of(std::span<const ResolvedRequest> requests) {
  std::vector<Generation> made;
  for (const ResolvedRequest& resolved : requests) {
    Generation& result = made.emplace_back();
    result.resolved = resolved;
    for (int64_t i = 0; i < resolved.request.num_outputs; ++i)
      result.pictures.emplace_back().seed = resolved.request.seed + static_cast<uint64_t>(i);
  }
  return made;
}

}  // namespace

Drawing::Drawing(Rank& of_rank, Communicator& of_world, const Parallelism& of_parallelism,
                 std::span<const ResolvedRequest> requests, std::span<const Progress> of_progress)
    : rank(of_rank),
      parallelism(of_parallelism),
      groups(of_world, of_parallelism),
      progress(of_progress),
      made(results_of(requests)),
      orders(of_world, of_progress, !of_rank.process.parts.one_at_a_time()) {}

Shape Drawing::latent_shape() const {
  const ModelShape& model = parts().shape();
  const ResolvedRequest& resolved = made.front().resolved;
  return {model.limits.latent_channels, resolved.drawn_height / model.limits.pixels_per_latent,
          resolved.drawn_width / model.limits.pixels_per_latent};
}

void Drawing::enter_stage(const char* name) const {
  if (!is_root()) return;
  for (const Progress& each : progress)
    if (each.on_stage) each.on_stage(name);
}

void Drawing::turn_to(std::span<const size_t> wanted) {
  enter_stage("load");
  timed("load", rank.process.ctx, [&] {
    world().barrier();  // nobody uses any more what is released
    if (rank.leads) {
      parts().turn_to(rank.process.ctx, wanted);
      report_weights(*this);
    }
    world().barrier();
  });
}

}  // namespace nostos
