// Owns the request that tests of whole drawings vary.
#pragma once

#include <cstdint>

#include "pipeline/request.h"

namespace nostos {

/// \return "A crowded beach", not "rain".
inline GenerationRequest beach_request(int64_t height, int64_t width, double guidance, int64_t steps) {
  GenerationRequest made;
  made.prompt = "A crowded beach";
  made.negative_prompt = "rain";
  made.height = height;
  made.width = width;
  made.num_inference_steps = steps;
  made.guidance_scale = guidance;
  return made;
}

}  // namespace nostos
