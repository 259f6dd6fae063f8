// Implements what the stages of a drawing share.
#include "pipeline/drawing.h"

#include <algorithm>
#include <cstring>

#include "pipeline/hand_over.h"
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

Tensor copy_of(const Tensor& from) {
  if (!from) return {};
  Tensor copy(Device{}, from.dtype(), from.shape());
  std::memcpy(copy.view().bytes(), from.view().bytes(), from.size_in_bytes());
  return copy;
}

}  // namespace

Drawing::Drawing(Rank& of_rank, Communicator& of_world, const Stretch& of_stretch)
    : rank(of_rank),
      stretch(of_stretch),
      parallelism(of_stretch.parallelism),
      groups(of_world, of_stretch.parallelism),
      progress(of_stretch.progress),
      made(results_of(of_stretch.requests)),
      orders(of_world, of_stretch.progress, !of_rank.process.parts.one_at_a_time(), of_stretch.hands_over) {
  const HandOver* const from = stretch.from;
  if (from == nullptr) {
    for (const Generation& one : made) steps_done.resize(steps_done.size() + one.pictures.size());
    return;
  }
  steps_done = from->steps_done;
  if (is_root()) report = from->report;
  for (size_t i = 0; i < made.size(); ++i) {
    made[i].cut = from->made[i].cut;
    made[i].cancelled = from->made[i].cancelled;
    for (size_t j = 0; j < made[i].pictures.size(); ++j)
      made[i].pictures[j].latents = copy_of(from->made[i].pictures[j].latents);
  }
}

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
    if (leads()) {
      parts().turn_to(rank.process.ctx, wanted);
      report_weights(*this);
    }
    world().barrier();
  });
}

}  // namespace nostos
