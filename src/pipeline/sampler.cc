// Implements the denoising loop.
#include "pipeline/sampler.h"

#include <chrono>
#include <thread>

#include "ops/copy_rows.h"
#include "ops/elementwise.h"
#include "ops/patches.h"
#include "tensor/transfer.h"

namespace nostos {

SamplerMemory SamplerMemory::take(Arena& arena, const zimage::Config& config, DType dtype, const SamplerPlan& plan) {
  const nn::SequenceParallel& picture = plan.picture;
  const Shape local{picture.image_tokens(), config.patch_width()}, all{picture.grid().tokens(), config.patch_width()};
  SamplerMemory memory;
  for (const Side side : {kPositive, kNegative}) {
    if (plan.caption_tokens[side] == 0) continue;
    memory.velocity[side] = nostos::take(arena, DType::f32, local);
    if (plan.halves != nullptr && plan.halves->rank() != static_cast<int>(side)) continue;
    memory.passes.push_back({side, zimage::Conditioning::take(arena, config, picture, plan.caption_tokens[side]), {}});
  }
  memory.modulation = zimage::Modulation::take(arena, config, plan.steps(), dtype);
  memory.deltas = nostos::take(arena, DType::f32, {1, plan.steps(), 1});
  memory.step_delta = nostos::take(arena, DType::f32, {1, 1, 1});
  memory.tokens = nostos::take(arena, DType::f32, local);
  memory.all_tokens = nostos::take(arena, DType::f32, all);
  memory.gathered_tokens = nostos::take(arena, DType::f32, all);
  if (plan.guidance.normalization > 0) {
    memory.token_squares = nostos::take(arena, DType::f64, {local[0], 2});
    memory.all_squares = nostos::take(arena, DType::f64, {all[0], 2});
    memory.gathered_squares = nostos::take(arena, DType::f64, {all[0], 2});
  }
  return memory;
}

void SamplerMemory::take_scratch(Arena& arena, const zimage::Config& config, DType dtype, const SamplerPlan& plan) {
  const size_t mark = arena.used_bytes();
  for (Pass& pass : passes) {
    arena.rewind(mark);
    pass.scratch = zimage::Scratch::take(arena, config, plan.picture, pass.conditioning, dtype);
  }
}

Sampler::Sampler(Context& ctx, const zimage::Transformer& transformer, const SamplerPlan& plan,
                 const SamplerMemory& memory, const std::array<ConstView, 2>& captions, SamplerLeft& left)
    : ctx_(ctx), transformer_(transformer), plan_(plan), memory_(memory), left_(left) {
  for (const SamplerMemory::Pass& pass : memory_.passes) {
    if (!left_.has_positions) transformer_.fill_positions(ctx_, plan_.picture, pass.conditioning);
    transformer_.take_caption(ctx_, plan_.picture, captions[pass.side], pass.conditioning);
  }
  left_.has_positions = true;
  transformer_.modulate(ctx_, plan_.schedule.times, memory_.modulation);
  Tensor deltas(Device{}, DType::f32, memory_.deltas.shape());
  for (size_t step = 0; step < plan_.schedule.times.size(); ++step)
    deltas.data<float>()[step] = plan_.schedule.sigmas[step + 1] - plan_.schedule.sigmas[step];
  upload(ctx_, deltas, memory_.deltas);
  for (const int64_t tokens : plan_.caption_tokens)
    if (tokens > 0) step_flop_ += transformer_.forward_flop(plan_.picture.grid().padded(), tokens);
}

void Sampler::run(View latents, const OnStep& on_step) {
  const int64_t patch = transformer_.config().patch;
  ops::patchify(ctx_, latents, patch, memory_.all_tokens);
  plan_.picture.cut_tokens(ctx_, memory_.all_tokens, memory_.tokens);
  for (int64_t step = 0; step < plan_.steps(); ++step) {
    Stopwatch watch(ctx_);
    enqueue_step(step, plan_.guidance.applies_at(plan_.schedule.times[static_cast<size_t>(step)]));
    watch.end(ctx_);
    steps_.push_back(std::move(watch));
    keep_one_ahead(step + 1, on_step);
  }
  plan_.picture.gather_tokens(ctx_, memory_.tokens, memory_.gathered_tokens, memory_.all_tokens);
  ops::unpatchify(ctx_, memory_.all_tokens, patch, latents);
}

void Sampler::enqueue_step(int64_t step, bool guided) {
  select_step(step);
  Graph& recorded = left_.step[guided];
  if (recorded) return recorded.launch(ctx_);
  make_step(guided);
  // Streamed weights arrive by the events of a stream of their own, which are other ones in each step.
  const bool streams = transformer_.weights().storage.stream != nullptr;
  const bool can_record = !streams && (plan_.world == nullptr || plan_.world->can_record());
  if (ctx_.device().kind == DeviceKind::cuda && can_record) recorded = Graph::record(ctx_, [&] { make_step(guided); });
}

void Sampler::select_step(int64_t step) {
  zimage::Transformer::select_step(ctx_, memory_.modulation, step);
  const ops::RowRun row{step, 0, 1};
  ops::copy_rows(ctx_, memory_.deltas, memory_.step_delta, {&row, 1});
}

void Sampler::make_step(bool guided) {
  predict(guided);
  if (guided) guide();
  ops::euler_step(ctx_, memory_.velocity[kPositive], memory_.step_delta, memory_.tokens);
}

void Sampler::keep_one_ahead(int64_t step, const OnStep& on_step) {
  const Stopwatch& now = steps_.back();
  const Stopwatch* before = steps_.size() > 1 ? &steps_[steps_.size() - 2] : nullptr;
  ctx_.throw_if_cancelled();
  while (before != nullptr && !before->is_done()) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    ctx_.throw_if_cancelled();
    if (plan_.world != nullptr) plan_.world->check_peers();
  }
  on_step(step, now.is_done() ? now.ms() : before != nullptr ? before->ms() : 0);
}

void Sampler::predict(bool guided) {
  for (const SamplerMemory::Pass& pass : memory_.passes) {
    if (pass.side == kNegative && !guided) continue;
    transformer_.forward(ctx_, plan_.picture, memory_.tokens, pass.conditioning, memory_.modulation, pass.scratch,
                         memory_.velocity[pass.side]);
  }
  Communicator* halves = plan_.halves;
  if (halves == nullptr) return;
  // Each half makes one prediction and gives it to the other, so that both take the same step.
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  for (const Side side : {kPositive, kNegative}) {
    if (side == kNegative && !guided) continue;
    const View velocity = memory_.velocity[side];
    const ByteView bytes{velocity.bytes(), velocity.size_in_bytes(), ctx_.device()};
    if (halves->rank() == static_cast<int>(side))
      sends.push_back({1 - halves->rank(), bytes});
    else
      receives.push_back({1 - halves->rank(), bytes});
  }
  halves->exchange("guidance halves", sends, receives).wait();
}

void Sampler::guide() {
  const auto& [positive, negative] = memory_.velocity;
  const Guidance& guidance = plan_.guidance;
  ops::guide(ctx_, positive, negative, guidance.scale, positive, memory_.token_squares);
  if (guidance.normalization <= 0) return;
  // The norms are of the whole picture: its tokens' sums are added in its own order on every rank.
  plan_.picture.gather_tokens(ctx_, memory_.token_squares, memory_.gathered_squares, memory_.all_squares);
  ops::cap_norm(ctx_, memory_.all_squares, guidance.normalization, positive);
}

}  // namespace nostos
