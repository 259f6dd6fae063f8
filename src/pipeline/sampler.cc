// Implements the denoising loop.
#include "pipeline/sampler.h"

#include <chrono>
#include <thread>
#include <utility>

#include "ops/elementwise.h"
#include "ops/patches.h"

namespace nostos {

Sampler::Sampler(Context& ctx, const zimage::Transformer& transformer, const Schedule& schedule,
                 const Guidance& guidance, nn::SequenceParallel picture, Communicator* halves, ConstView positive,
                 ConstView negative)
    : ctx_(ctx),
      transformer_(transformer),
      schedule_(schedule),
      guidance_(guidance),
      picture_(std::move(picture)),
      halves_(halves),
      arena_(ctx.device()) {
  const Captions captions{positive, negative};
  Arena measure(ctx.device());
  take_plan(measure, captions);
  arena_ = Arena(ctx.device(), measure.peak_bytes());
  plan_ = take_plan(arena_, captions);
  for (const Pass& pass : plan_.passes) transformer.condition(ctx, picture_, captions[pass.side], pass.conditioning);
  transformer.modulate(ctx, schedule_.times, plan_.modulation);
  for (const ConstView& caption : captions)
    if (caption) step_flop_ += transformer.forward_flop(picture_.grid().padded(), caption.shape()[0]);
}

Sampler::Plan Sampler::take_plan(Arena& arena, const Captions& captions) const {
  const zimage::Config& config = transformer_.config();
  const Shape local{picture_.image_tokens(), config.patch_width()}, all{picture_.grid().tokens(), config.patch_width()};
  Plan plan;
  for (const Side side : {kPositive, kNegative}) {
    if (!captions[side]) continue;
    plan.velocity[side] = take(arena, DType::f32, local);
    if (halves_ != nullptr && halves_->rank() != static_cast<int>(side)) continue;
    plan.passes.push_back({side, zimage::Conditioning::take(arena, config, picture_, captions[side].shape()[0]), {}});
  }
  plan.modulation = zimage::Modulation::take(arena, config, static_cast<int64_t>(schedule_.times.size()));
  plan.tokens = take(arena, DType::f32, local);
  plan.all_tokens = take(arena, DType::f32, all);
  plan.gathered_tokens = take(arena, DType::f32, all);
  if (guidance_.normalization > 0) {
    plan.token_squares = take(arena, DType::f64, {local[0], 2});
    plan.all_squares = take(arena, DType::f64, {all[0], 2});
    plan.gathered_squares = take(arena, DType::f64, {all[0], 2});
  }
  const size_t mark = arena.used_bytes();
  for (Pass& pass : plan.passes) {
    arena.rewind(mark);
    pass.scratch = zimage::Scratch::take(arena, config, picture_, pass.conditioning, transformer_.dtype());
  }
  return plan;
}

void Sampler::run(View latents, const OnStep& on_step) {
  const int64_t patch = transformer_.config().patch;
  ops::patchify(ctx_, latents, patch, plan_.all_tokens);
  picture_.cut_tokens(ctx_, plan_.all_tokens, plan_.tokens);
  for (size_t step = 0; step < schedule_.times.size(); ++step) {
    Stopwatch watch(ctx_);
    const bool guided = guidance_.applies_at(schedule_.times[step]);
    predict(static_cast<int64_t>(step), guided);
    if (guided) guide();
    ops::euler_step(ctx_, plan_.velocity[kPositive], schedule_.sigmas[step + 1] - schedule_.sigmas[step], plan_.tokens);
    watch.end(ctx_);
    steps_.push_back(std::move(watch));
    keep_one_ahead(static_cast<int64_t>(step) + 1, on_step);
  }
  picture_.gather_tokens(ctx_, plan_.tokens, plan_.gathered_tokens, plan_.all_tokens);
  ops::unpatchify(ctx_, plan_.all_tokens, patch, latents);
}

void Sampler::keep_one_ahead(int64_t step, const OnStep& on_step) {
  const Stopwatch& now = steps_.back();
  const Stopwatch* before = steps_.size() > 1 ? &steps_[steps_.size() - 2] : nullptr;
  ctx_.throw_if_cancelled();
  while (before != nullptr && !before->is_done()) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    ctx_.throw_if_cancelled();
  }
  on_step(step, now.is_done() ? now.ms() : before != nullptr ? before->ms() : 0);
}

void Sampler::predict(int64_t step, bool guided) {
  for (const Pass& pass : plan_.passes) {
    if (pass.side == kNegative && !guided) continue;
    transformer_.forward(ctx_, picture_, plan_.tokens, pass.conditioning, plan_.modulation, step, pass.scratch,
                         plan_.velocity[pass.side]);
  }
  if (halves_ == nullptr) return;
  // Each half makes one prediction and gives it to the other, so that both take the same step.
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  for (const Side side : {kPositive, kNegative}) {
    if (side == kNegative && !guided) continue;
    const View velocity = plan_.velocity[side];
    const ByteView bytes{velocity.bytes(), velocity.size_in_bytes(), ctx_.device()};
    if (halves_->rank() == static_cast<int>(side))
      sends.push_back({1 - halves_->rank(), bytes});
    else
      receives.push_back({1 - halves_->rank(), bytes});
  }
  halves_->exchange("guidance halves", sends, receives).wait();
}

void Sampler::guide() {
  const auto& [positive, negative] = plan_.velocity;
  ops::guide(ctx_, positive, negative, guidance_.scale, positive, plan_.token_squares);
  if (guidance_.normalization <= 0) return;
  // The norms are of the whole picture: its tokens' sums are added in its own order on every rank.
  picture_.gather_tokens(ctx_, plan_.token_squares, plan_.gathered_squares, plan_.all_squares);
  ops::cap_norm(ctx_, plan_.all_squares, guidance_.normalization, positive);
}

}  // namespace nostos
