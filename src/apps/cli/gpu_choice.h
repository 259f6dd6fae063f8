// Owns `--num-gpus auto`: how many GPUs one drawing is worth, and why.
#pragma once

#include <string>

#include "apps/cli/flags.h"
#include "apps/cli/ranks.h"
#include "pipeline/engine.h"
#include "scheduling/cost_model.h"

namespace nostos::cli {

struct GpuChoice {
  int64_t gpus = 1;
  std::string reason;  ///< for people
};

/// \param available GPUs that are alike; 0 without any
GpuChoice choose_gpus(const scheduling::Work& work, int64_t available);

/// \return what the request makes a model of that shape compute.
scheduling::Work work_of(const ResolvedRequest& request, const ModelShape& shape);

/// Has the drawing of `request` use as many GPUs as draw it soonest, and says so.
/// \param options made of `flags` without a number of GPUs
/// \throws Error invalid_input if the flags give degrees
void use_fastest_gpus(const EngineFlags& flags, const ResolvedRequest& request, const ModelShape& shape,
                      EngineOptions& options);

/// Has ranks that are dealt to drawings have all GPUs that are alike, unless the flags give a number of ranks.
/// \param options made of `flags` \throws Error invalid_input if the flags give degrees, or ranks are processes
void use_all_gpus(const EngineFlags& flags, const Processes& processes, EngineOptions& options);

}  // namespace nostos::cli
