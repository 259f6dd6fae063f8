// Implements what a server asks of its engine.
#include "apps/dealt_ranks.h"

#include <algorithm>
#include <numeric>

#include "apps/cli/gpu_choice.h"

namespace nostos {
namespace {

constexpr int64_t kMeasuredSteps = 4;  // the first prepares kernels

}  // namespace

std::vector<double> warm_up(const GenerationRequest& request,
                            const std::function<std::vector<Generation>(std::span<const GenerationRequest> requests,
                                                                        std::span<const Progress> progress)>& draw) {
  Progress with_previews;
  with_previews.wants_preview = [](const PictureStep&) { return true; };
  with_previews.on_preview = [](const PictureStep&, const Image&) {};
  return draw({&request, 1}, {&with_previews, 1}).front().report.step_ms;
}

server::EngineCalls dealt_calls(scheduling::Policy policy, Engine& engine, const ModelShape& shape) {
  server::EngineCalls calls;
  calls.draw = [&engine](std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                         const Lane& lane,
                         const LaneChange& change) { return engine.draw(requests, progress, lane, change); };
  calls.pictures_at_once = [&engine](const GenerationRequest& request) {
    return engine.pictures_at_once(request, {.places = {0}});
  };
  calls.places = engine.places();
  calls.policy = policy;
  calls.work = [&engine, shape](const GenerationRequest& request) {
    return cli::work_of(resolve(request, engine.limits()), shape);
  };
  calls.lost_places = [&engine] { return engine.lost_places(); };
  return calls;
}

void warm_up_lanes(const GenerationRequest& smallest, bool is_measured, Engine& engine, server::EngineCalls& calls) {
  std::vector<Lane> lanes;
  for (int place = 0; place < calls.places; ++place) lanes.push_back({.places = {place}});
  lanes.push_back({.places = std::vector<int>(static_cast<size_t>(calls.places))});
  std::iota(lanes.back().places.begin(), lanes.back().places.end(), 0);
  const auto draw_on = [&](const GenerationRequest& request, const Lane& lane) {
    return warm_up(request, [&](auto requests, auto progress) { return engine.draw(requests, progress, lane); });
  };
  for (const Lane& lane : lanes) draw_on(smallest, lane);
  if (!is_measured) return;
  GenerationRequest usual = smallest;
  usual.height = engine.limits().default_height;
  usual.width = engine.limits().default_width;
  usual.num_inference_steps = kMeasuredSteps;
  const scheduling::Work work = calls.work(usual);
  for (const Lane& lane : {lanes.front(), lanes.back()}) {
    const std::vector<double> steps = draw_on(usual, lane);
    calls.costs.observe_step(work, static_cast<int>(lane.places.size()), std::ranges::min(steps));
  }
}

}  // namespace nostos
