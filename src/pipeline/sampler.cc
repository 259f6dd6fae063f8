// Implements the denoising loop.
#include "pipeline/sampler.h"

#include <chrono>

#include "ops/elementwise.h"
#include "ops/patches.h"

namespace nostos {

Sampler::Sampler(Context& ctx, const zimage::Transformer& transformer, const Schedule& schedule,
                 const Guidance& guidance, const zimage::TokenGrid& grid, ConstView positive, ConstView negative)
    : ctx_(ctx),
      transformer_(transformer),
      schedule_(schedule),
      guidance_(guidance),
      grid_(grid),
      arena_(ctx.device()) {
  const int64_t positive_tokens = positive.shape()[0], negative_tokens = negative ? negative.shape()[0] : 0;
  Arena measure(ctx.device());
  take_plan(measure, positive_tokens, negative_tokens);
  arena_ = Arena(ctx.device(), measure.peak_bytes());
  plan_ = take_plan(arena_, positive_tokens, negative_tokens);
  transformer.condition(ctx, grid, positive, plan_.positive);
  if (negative) transformer.condition(ctx, grid, negative, plan_.negative);
  transformer.modulate(ctx, schedule_.times, plan_.modulation);
}

Sampler::Plan Sampler::take_plan(Arena& arena, int64_t positive_tokens, int64_t negative_tokens) const {
  const zimage::Config& config = transformer_.config();
  const Shape state{grid_.tokens(), config.patch_width()};
  Plan plan;
  plan.positive = zimage::Conditioning::take(arena, config, grid_, positive_tokens);
  if (negative_tokens > 0) plan.negative = zimage::Conditioning::take(arena, config, grid_, negative_tokens);
  plan.modulation = zimage::Modulation::take(arena, config, static_cast<int64_t>(schedule_.times.size()));
  plan.tokens = take(arena, DType::f32, state);
  plan.velocity = take(arena, DType::f32, state);
  if (negative_tokens > 0) plan.negative_velocity = take(arena, DType::f32, state);
  if (guidance_.normalization > 0) plan.token_squares = take(arena, DType::f64, {state[0], 2});
  const size_t mark = arena.used_bytes();
  plan.positive_scratch = zimage::Scratch::take(arena, config, grid_, plan.positive, transformer_.dtype());
  if (negative_tokens > 0) {
    arena.rewind(mark);
    plan.negative_scratch = zimage::Scratch::take(arena, config, grid_, plan.negative, transformer_.dtype());
  }
  return plan;
}

void Sampler::run(View latents, const OnStep& on_step) {
  const int64_t patch = transformer_.config().patch;
  ops::patchify(ctx_, latents, patch, plan_.tokens);
  for (size_t step = 0; step < schedule_.times.size(); ++step) {
    const auto begin = std::chrono::steady_clock::now();
    const auto forward = [&](const zimage::Conditioning& conditioning, const zimage::Scratch& scratch, View velocity) {
      transformer_.forward(ctx_, grid_, plan_.tokens, conditioning, plan_.modulation, static_cast<int64_t>(step),
                           scratch, velocity);
    };
    forward(plan_.positive, plan_.positive_scratch, plan_.velocity);
    if (guidance_.applies_at(schedule_.times[step])) {
      forward(plan_.negative, plan_.negative_scratch, plan_.negative_velocity);
      ops::guide(ctx_, plan_.velocity, plan_.negative_velocity, guidance_.scale, plan_.velocity, plan_.token_squares);
      if (guidance_.normalization > 0)
        ops::cap_norm(ctx_, plan_.token_squares, guidance_.normalization, plan_.velocity);
    }
    ops::euler_step(ctx_, plan_.velocity, schedule_.sigmas[step + 1] - schedule_.sigmas[step], plan_.tokens);
    ctx_.throw_if_cancelled();
    on_step(static_cast<int64_t>(step) + 1,
            std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  ops::unpatchify(ctx_, plan_.tokens, patch, latents);
}

double Sampler::step_flop() const {
  double flop = transformer_.forward_flop(grid_, plan_.positive.padded_caption());
  if (guidance_.scale > 0) flop += transformer_.forward_flop(grid_, plan_.negative.padded_caption());
  return flop;
}

}  // namespace nostos
