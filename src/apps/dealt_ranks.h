// Owns what a server asks of its engine: how drawings are warmed up, and with --policy how ranks are dealt to jobs.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "apps/server/engine_calls.h"
#include "pipeline/engine.h"

namespace nostos {

/// Draws what the first clients would wait for otherwise. \return milliseconds of each step
std::vector<double> warm_up(const GenerationRequest& request,
                            const std::function<std::vector<Generation>(std::span<const GenerationRequest> requests,
                                                                        std::span<const Progress> progress)>& draw);

/// \return what the server asks of an engine whose ranks are dealt to jobs. Both must outlive it. \param shape of its
/// model
server::EngineCalls dealt_calls(scheduling::Policy policy, Engine& engine, const ModelShape& shape);

/// Warms the ranks of `engine` up, each alone and all together, and has `calls` know what steps take.
/// \param is_measured whether in the model's own size, too, which takes a CPU long
void warm_up_lanes(const GenerationRequest& smallest, bool is_measured, Engine& engine, server::EngineCalls& calls);

}  // namespace nostos
