// Owns what the server wants of an engine.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "pipeline/batch.h"
#include "pipeline/generation.h"
#include "pipeline/lane.h"
#include "pipeline/request.h"
#include "scheduling/cost_model.h"
#include "scheduling/policy.h"

namespace nostos::server {

/// Any thread may call the functions.
struct EngineCalls {
  /// Draws requests of one size and number of steps together. \param lane places that no other drawing has
  /// \param change of the lane between two steps. \return as Engine::draw()
  std::function<std::vector<Generation>(std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                                        const Lane& lane, const LaneChange& change)>
      draw;
  /// \return how many images like the request's are worth drawing together on one place, at least 1.
  /// \throws Error invalid_input
  std::function<int64_t(const GenerationRequest& request)> pictures_at_once;
  /// \return whether `draw` takes both in one list.
  std::function<bool(const GenerationRequest& a, const GenerationRequest& b)> takes_together =
      [](const GenerationRequest& a, const GenerationRequest& b) {
        return draws_together(resolve(a, {}), resolve(b, {}));
      };

  int places = 1;  ///< that are dealt to drawings, from 0 on; each drawing has one or more
  scheduling::Policy policy = scheduling::Policy::throughput;
  scheduling::CostModel costs{};  ///< what is known of times
  /// \return what the request computes. \throws Error invalid_input
  std::function<scheduling::Work(const GenerationRequest& request)> work =
      [](const GenerationRequest& request) -> scheduling::Work {
    return {.rows = 1, .passes = request.num_outputs, .images = request.num_outputs};
  };
  /// \return the places whose device is lost.
  std::function<std::vector<int>()> lost_places = [] { return std::vector<int>(); };
};

}  // namespace nostos::server
