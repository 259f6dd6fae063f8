// Owns the noise levels of a run: the flow-match Euler schedule. Family::schedule() of families that use it is made
// here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace nostos {

class JsonConfig;

/// How the noise levels of a FlowMatchEulerDiscreteScheduler are shifted.
enum class Shifting {
  fixed,    ///< by SchedulerConfig::shift
  dynamic,  ///< by a number that the family computes for each image, exponentially
};

/// scheduler_config.json of a FlowMatchEulerDiscreteScheduler; defaults are diffusers'.
struct SchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double shift = 1.0;  ///< Z-Image: 3
};

/// \throws Error model for a missing file, another `_class_name`, a wrong type or range, another kind of shifting, or
/// an option that nostos cannot draw with (Karras, exponential or beta sigmas, inverted sigmas, stochastic sampling, a
/// terminal shift).
SchedulerConfig load_scheduler_config(const std::filesystem::path& file, Shifting shifting = Shifting::fixed);
/// The same of a config that stands elsewhere.
SchedulerConfig load_scheduler_config(const JsonConfig& config, Shifting shifting = Shifting::fixed);

/// Noise levels and model times of one run, in float32, bit for bit as diffusers computes them on a CPU with AVX2 or
/// AVX-512.
struct Schedule {
  std::vector<float> sigmas;    ///< steps + 1, the last is 0
  std::vector<float> times;     ///< steps; what the transformer is called with
  std::vector<float> elapsed;   ///< steps; 1 - sigma, by which GenerationRequest::cfg_truncation ends guidance
  bool predicts_noise = false;  ///< whether the model's output leads from the image to the noise, not back: FLUX.2

  /// \return the schedule that begins with this step.
  Schedule from(int64_t step) const;
  /// \return how far step `step` goes along the negated output of the model, as ops::euler_step() takes it.
  float step_delta(size_t step) const { return along(sigmas[step + 1] - sigmas[step]); }
  /// \return how far it is, likewise, from the state after step `step` to the clean image.
  float clean_delta(size_t step) const { return along(-sigmas[step + 1]); }

 private:
  float along(float sigma) const { return predicts_noise ? -sigma : sigma; }
};

/// Z-Image's. Source: diffusers pipeline_z_image.py and scheduling_flow_match_euler_discrete.py @58eb52c0.
/// \param steps >= 1
/// \return sigmas = shifted linspace(1, 1/steps, steps), then 0; shifted s = shift * s / (1 + (shift - 1) * s); times =
/// (1000 - T * sigma) / 1000, T = num_train_timesteps.
/// \throws Error internal if steps < 1.
Schedule make_schedule(const SchedulerConfig& config, int64_t steps);
/// The same from the user's own levels before shifting, as diffusers' set_timesteps(sigmas=...) takes them.
/// \throws Error internal if there are none.
Schedule make_schedule(const SchedulerConfig& config, std::span<const double> sigmas);

/// FLUX.2's. Source: diffusers 0.42.1 pipeline_flux2_klein.py, compute_empirical_mu(), and the scheduler's
/// _time_shift_exponential().
/// \param sigmas the user's own levels before shifting; empty: linspace(1, 1/steps, steps)
/// \param image_tokens of the whole image, references not counted
/// \return shifted s = e / (e + (1 / s - 1)), e = exp(mu) of the tokens and steps; times = T * sigma, which pass
/// through thousandths.
Schedule make_empirical_schedule(const SchedulerConfig& config, int64_t steps, std::span<const double> sigmas,
                                 int64_t image_tokens);

}  // namespace nostos
