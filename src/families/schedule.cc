// Computes the noise levels of a run as diffusers' ZImagePipeline, Flux2KleinPipeline and
// FlowMatchEulerDiscreteScheduler do, float by float.
//
// This file is compiled without contraction of products and sums (see CMakeLists.txt): where PyTorch's compiled code
// fuses them, std::fma says so, and nowhere else.
#include "families/schedule.h"

#include <array>
#include <cmath>
#include <string_view>

#include "base/error.h"
#include "io/json_config.h"

namespace nostos {
namespace {

// Pipelines count time in thousandths whatever num_train_timesteps is.
constexpr float kTimeScale = 1000.0f;

/// torch.linspace(1, 1 / steps, steps) in float32: the first half from the start, the second from the end, products and
/// sums fused (aten/src/ATen/native/cpu/RangeFactoriesKernel.cpp as built for AVX2 and AVX-512).
std::vector<float> default_sigmas(int64_t steps) {
  std::vector<float> sigmas(static_cast<size_t>(steps), 1.0f);
  if (steps == 1) return sigmas;
  const float end = static_cast<float>(1.0 / static_cast<double>(steps));
  const float stride = (end - 1.0f) / static_cast<float>(steps - 1);
  for (int64_t i = 0; i < steps; ++i) {
    sigmas[static_cast<size_t>(i)] = i < steps / 2 ? std::fma(stride, static_cast<float>(i), 1.0f)
                                                   : std::fma(-stride, static_cast<float>(steps - i - 1), end);
  }
  return sigmas;
}

/// set_timesteps(sigmas=...) with static shifting, then the times that the pipeline makes of its timesteps.
Schedule shifted(const SchedulerConfig& config, std::vector<float> sigmas) {
  check(!sigmas.empty(), "a schedule has at least one step");
  const float shift = static_cast<float>(config.shift);
  const float shift_minus_one = static_cast<float>(config.shift - 1);
  Schedule schedule;
  for (float& sigma : sigmas) {
    sigma = shift * sigma / (1.0f + shift_minus_one * sigma);
    const float timestep = sigma * static_cast<float>(config.num_train_timesteps);
    schedule.times.push_back((kTimeScale - timestep) / kTimeScale);
  }
  schedule.elapsed = schedule.times;
  sigmas.push_back(0.0f);
  schedule.sigmas = std::move(sigmas);
  return schedule;
}

}  // namespace

SchedulerConfig load_scheduler_config(const std::filesystem::path& file, Shifting shifting) {
  return load_scheduler_config(JsonConfig::load(file), shifting);
}

SchedulerConfig load_scheduler_config(const JsonConfig& config, Shifting shifting) {
  constexpr std::array<std::string_view, 1> kClasses = {"FlowMatchEulerDiscreteScheduler"};
  config.check_class(kClasses);
  const bool is_dynamic = config.boolean_or("use_dynamic_shifting", false);
  require(is_dynamic == (shifting == Shifting::dynamic), ErrorKind::model,
          "{}: 'use_dynamic_shifting' is {}; this family of models draws with {}", config.name(), is_dynamic,
          is_dynamic ? "a static shift alone, so it must be false or absent" : "dynamic shifting, so it must be true");
  const std::string type = config.string_or("time_shift_type", "exponential");
  require(!is_dynamic || type == "exponential", ErrorKind::model,
          "{}: 'time_shift_type' is \"{}\"; nostos shifts exponentially alone", config.name(), type);
  for (const char* option :
       {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas", "stochastic_sampling"}) {
    require(!config.boolean_or(option, false), ErrorKind::model,
            "{}: '{}' is true; nostos draws with shifted levels alone, so it must be false or absent", config.name(),
            option);
  }
  const double terminal = config.number_or("shift_terminal", 0, 0, 1);
  require(terminal == 0, ErrorKind::model,
          "{}: 'shift_terminal' is {}; nostos draws without a terminal shift, so it must be null or absent",
          config.name(), terminal);
  return {.num_train_timesteps = config.integer_or("num_train_timesteps", 1000, 1, 1'000'000),
          .shift = config.number_or("shift", 1.0, 1e-3, 1e3)};
}

Schedule make_schedule(const SchedulerConfig& config, int64_t steps) {
  check(steps >= 1, "a schedule has at least one step");
  return shifted(config, default_sigmas(steps));
}

Schedule make_schedule(const SchedulerConfig& config, std::span<const double> sigmas) {
  return shifted(config, std::vector<float>(sigmas.begin(), sigmas.end()));
}

namespace {

/// compute_empirical_mu().
double empirical_mu(int64_t image_tokens, int64_t steps) {
  constexpr int64_t kManyTokens = 4300;
  const double tokens = static_cast<double>(image_tokens);
  const double at_200 = 0.00016927 * tokens + 0.45666666;
  if (image_tokens > kManyTokens) return at_200;
  const double at_10 = 8.73809524e-05 * tokens + 1.89833333;
  const double slope = (at_200 - at_10) / 190.0;
  return slope * static_cast<double>(steps) + (at_200 - 200.0 * slope);
}

/// numpy.linspace(1, 1 / steps, steps), rounded to float32.
std::vector<float> numpy_sigmas(int64_t steps) {
  std::vector<float> sigmas{1.0f};
  const double end = 1.0 / static_cast<double>(steps);
  const double stride = (end - 1.0) / static_cast<double>(steps - 1);
  for (int64_t i = 1; i < steps; ++i) {
    const double sigma = i + 1 == steps ? end : static_cast<double>(i) * stride + 1.0;
    sigmas.push_back(static_cast<float>(sigma));
  }
  return sigmas;
}

}  // namespace

Schedule make_empirical_schedule(const SchedulerConfig& config, int64_t steps, std::span<const double> sigmas,
                                 int64_t image_tokens) {
  check(steps >= 1, "a schedule has at least one step");
  const std::vector<float> levels =
      sigmas.empty() ? numpy_sigmas(steps) : std::vector<float>(sigmas.begin(), sigmas.end());
  const float e = static_cast<float>(std::exp(empirical_mu(image_tokens, std::ssize(levels))));
  Schedule schedule;
  schedule.predicts_noise = true;
  for (const float level : levels) {
    const float sigma = e / (e + (1.0f / level - 1.0f));
    const float timestep = sigma * static_cast<float>(config.num_train_timesteps);
    schedule.sigmas.push_back(sigma);
    schedule.times.push_back(timestep / kTimeScale * kTimeScale);
    schedule.elapsed.push_back(1.0f - sigma);
  }
  schedule.sigmas.push_back(0.0f);
  return schedule;
}

Schedule Schedule::from(int64_t step) const {
  const auto rest = [&](const std::vector<float>& all) { return std::vector<float>(all.begin() + step, all.end()); };
  return {rest(sigmas), rest(times), rest(elapsed), predicts_noise};
}

}  // namespace nostos
