// Owns following drawings step by step: what a model predicts in each, and how much another model would predict
// something else at the very same states.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/image.h"
#include "pipeline/engine.h"

namespace nostos {

/// What a drawing of one image predicted.
struct Trajectory {
  std::vector<std::vector<float>> velocities;  ///< of each step, after guidance
  Image image;
};

/// How much a velocity differs from the one that it is compared with.
struct VelocityError {
  double cosine = 1;    ///< of the angle between the two; 0 where one is not finite
  double relative = 0;  ///< |difference| / |the other|
};

/// \return the velocities a and b compared. \param wanted of the same size
VelocityError compare_velocities(std::span<const float> made, std::span<const float> wanted);

/// Draws a request of one image. \param on_step called after each step; may be empty
/// \throws Error as Engine::generate()
Trajectory follow(Engine& engine, const GenerationRequest& request, const Progress& progress,
                  const std::function<void()>& on_step = {});

/// Draws the request with the velocities of `along` in place of the engine's own, so that every step begins where that
/// of `along` began.
/// \return the engine's own velocities compared with these, step by step.
std::vector<VelocityError> compare_along(Engine& engine, const GenerationRequest& request, const Trajectory& along,
                                         const Progress& progress);

}  // namespace nostos
