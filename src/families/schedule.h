// Owns the noise levels of a run: the flow-match Euler schedule. Family::schedule() of families that use it is made
// here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace nostos {

/// scheduler_config.json of a FlowMatchEulerDiscreteScheduler with static shift; defaults are diffusers'.
struct SchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double shift = 1.0;  ///< Z-Image: 3
};

/// \throws Error model for a missing file, another `_class_name`, a wrong type or range, or an option that nostos
/// cannot draw with (dynamic shifting, Karras, exponential or beta sigmas, inverted sigmas, stochastic sampling, a
/// terminal shift).
SchedulerConfig load_scheduler_config(const std::filesystem::path& file);

/// Noise levels and model times of one run, in float32, bit for bit as diffusers computes them on a CPU with AVX2 or
/// AVX-512. Source: diffusers pipeline_z_image.py and scheduling_flow_match_euler_discrete.py @58eb52c0.
struct Schedule {
  std::vector<float> sigmas;  ///< steps + 1, the last is 0
  std::vector<float> times;   ///< steps; what the transformer is called with: (1000 - T * sigma) / 1000,
                              ///< T = num_train_timesteps
};

/// \param steps >= 1
/// \return sigmas = shifted linspace(1, 1/steps, steps), then 0; shifted s = shift * s / (1 + (shift - 1) * s).
/// \throws Error internal if steps < 1.
Schedule make_schedule(const SchedulerConfig& config, int64_t steps);
/// The same from the user's own levels before shifting, as diffusers' set_timesteps(sigmas=...) takes them.
/// \throws Error internal if there are none.
Schedule make_schedule(const SchedulerConfig& config, std::span<const double> sigmas);

}  // namespace nostos
