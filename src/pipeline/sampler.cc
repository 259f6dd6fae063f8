// Implements the denoising loop.
#include "pipeline/sampler.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/patches.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

std::span<const Side> sides_of(Prediction prediction) {
  static constexpr std::array kSides{kPositive, kNegative};
  return std::span(kSides).first(static_cast<size_t>(prediction));
}

/// \return the passes of a step that `computes` makes. \param pictures memory of each
template <class Computes>
std::vector<DenoisePass> passes_of(const SamplerPlan& plan, std::span<const SamplerMemory::Picture> pictures,
                                   const StepKind& kind, const Computes& computes) {
  std::vector<DenoisePass> passes;
  for (size_t picture = 0; picture < kind.pictures.size(); ++picture) {
    const SamplerMemory::Picture& of = pictures[picture];
    for (const Side side : sides_of(kind.pictures[picture]))
      if (computes(side))
        passes.push_back(
            {picture, plan.pictures[picture].captions[side], of.tokens, of.velocity[side], kind.is_controlled});
  }
  return passes;
}

/// \return the passes of a step that this rank makes.
std::vector<DenoisePass> own_passes(const SamplerPlan& plan, const SamplerMemory& memory, const StepKind& kind) {
  return passes_of(plan, memory.pictures, kind, [&](Side side) { return plan.computes(side); });
}

/// \return the kind of step in which every picture is wanted, and guided and controlled if any of its steps is.
StepKind whole_step(const SamplerPlan& plan) {
  StepKind kind{.is_controlled = plan.has_control()};
  for (const PicturePlan& picture : plan.pictures)
    kind.pictures.push_back(picture.guidance.is_on() ? Prediction::guided : Prediction::plain);
  return kind;
}

}  // namespace

int64_t SamplerPlan::rows_of(size_t picture) const {
  const int64_t ranks = share.plan().request.ranks;
  const auto rows = [&](Side side) {
    const int64_t caption = caption_tokens[pictures[picture].captions[side]];
    int64_t tokens = share.plan().padded_tokens() + caption;
    for (const parallel::Grid& reference : references) tokens += reference.tokens();
    return (tokens + ranks - 1) / ranks;
  };
  if (!pictures[picture].guidance.is_on()) return rows(kPositive);
  return halves != nullptr ? std::max(rows(kPositive), rows(kNegative)) : rows(kPositive) + rows(kNegative);
}

SamplerMemory SamplerMemory::take(Arena& arena, const Family& family, const SamplerPlan& plan) {
  const int64_t patch_width = family.shape().patch_width();
  const Shape local{plan.share.image_tokens(), patch_width};
  const Shape all{plan.share.grid().tokens(), patch_width};
  SamplerMemory memory;
  bool is_capped = false;
  for (const PicturePlan& planned : plan.pictures) {
    Picture& picture = memory.pictures.emplace_back();
    picture.tokens = nostos::take(arena, DType::f32, local);
    for (const Side side : sides_of(planned.guidance.is_on() ? Prediction::guided : Prediction::plain))
      picture.velocity[side] = nostos::take(arena, DType::f32, local);
    if (plan.has_mask) {
      picture.clean = nostos::take(arena, DType::f32, local);
      picture.noise = nostos::take(arena, DType::f32, local);
    }
    is_capped = is_capped || planned.guidance.normalization > 0;
  }
  std::vector<size_t> captions;
  for (const DenoisePass& pass : own_passes(plan, memory, whole_step(plan))) captions.push_back(pass.embedding);
  memory.denoiser = family.take_denoiser(arena, {plan.share, plan.caption_tokens, captions, plan.references,
                                                 plan.steps(), plan.passes_apart, plan.has_control()});
  memory.deltas = nostos::take(arena, DType::f32, {1, plan.steps(), 1});
  memory.step_delta = nostos::take(arena, DType::f32, {1, 1, 1});
  if (plan.has_mask) {
    memory.mask = nostos::take(arena, DType::f32, local);
    memory.levels = nostos::take(arena, DType::f32, {1, plan.steps(), 1});
    memory.step_level = nostos::take(arena, DType::f32, {1, 1, 1});
  }
  memory.all_tokens = nostos::take(arena, DType::f32, all);
  memory.gathered_tokens = nostos::take(arena, DType::f32, all);
  if (is_capped) {
    memory.token_squares = nostos::take(arena, DType::f64, {local[0], 2});
    memory.all_squares = nostos::take(arena, DType::f64, {all[0], 2});
    memory.gathered_squares = nostos::take(arena, DType::f64, {all[0], 2});
  }
  return memory;
}

void SamplerMemory::take_scratch(Arena& arena, const SamplerPlan& plan) {
  denoiser->take_scratch(arena, own_passes(plan, *this, whole_step(plan)));
}

void cap_norm(Context& ctx, const nn::SequenceParallel& share, const SamplerMemory& memory, float ratio,
              View velocity) {
  share.gather_tokens(ctx, memory.token_squares, memory.gathered_squares, memory.all_squares);
  ops::cap_norm(ctx, memory.all_squares, ratio, velocity);
}

Sampler::Sampler(Context& ctx, const SamplerPlan& plan, const SamplerMemory& memory, const SamplerInputs& inputs,
                 SamplerLeft& left)
    : ctx_(ctx), plan_(plan), memory_(memory), left_(left) {
  if (left_.caption_tokens != plan_.caption_tokens || left_.references != plan_.references ||
      left_.pictures != plan_.pictures || left_.has_mask != plan_.has_mask || left_.has_control != plan_.has_control())
    left_ = {.caption_tokens = plan_.caption_tokens,
             .references = plan_.references,
             .pictures = plan_.pictures,
             .has_mask = plan_.has_mask,
             .has_control = plan_.has_control()};
  run_half(!left_.has_positions, [&] {
    memory_.denoiser->take_embeddings(ctx_, inputs.captions, !left_.has_positions);
    memory_.denoiser->take_references(ctx_, inputs.references);
    if (plan_.has_control()) memory_.denoiser->take_control(ctx_, inputs.condition, plan_.control_scales);
  });
  left_.has_positions = true;
  memory_.denoiser->take_times(ctx_, plan_.schedule.times);
  const auto fill = [&](View table, const auto& of_step) {
    Tensor values(Device{}, DType::f32, table.shape());
    for (size_t step = 0; step < plan_.schedule.times.size(); ++step) values.data<float>()[step] = of_step(step);
    upload(ctx_, values, table);
  };
  fill(memory_.deltas, [&](size_t step) { return plan_.schedule.step_delta(step); });
  if (plan_.has_mask) fill(memory_.levels, [&](size_t step) { return plan_.schedule.sigmas[step + 1]; });
}

void Sampler::cut(ConstView latents, View tokens) {
  ops::patchify(ctx_, latents, plan_.share.plan().request.patch, memory_.all_tokens);
  plan_.share.cut_tokens(ctx_, memory_.all_tokens, tokens);
}

void Sampler::know(size_t picture, ConstView clean, ConstView noise, ConstView mask) {
  cut(clean, memory_.pictures[picture].clean);
  cut(noise, memory_.pictures[picture].noise);
  plan_.share.cut_tokens(ctx_, mask, memory_.mask);
}

int64_t Sampler::rows() const {
  int64_t all = 0, largest = 0;
  for (const DenoisePass& pass : own_passes(plan_, memory_, whole_step(plan_))) {
    const int64_t rows = memory_.denoiser->rows(pass.embedding);
    all += rows;
    largest = std::max(largest, rows);
  }
  return plan_.passes_apart ? largest : all;
}

double Sampler::step_flop() const {
  const auto flop_of = [&](const auto& computes) {
    return memory_.denoiser->flop(passes_of(plan_, memory_.pictures, whole_step(plan_), computes));
  };
  if (plan_.halves == nullptr) return flop_of([](Side) { return true; });
  return flop_of([](Side side) { return side == kPositive; }) + flop_of([](Side side) { return side == kNegative; });
}

void Sampler::run(std::span<const View> latents, const Wanted& wanted, const OnStep& on_step) {
  for (size_t i = 0; i < latents.size(); ++i) cut(latents[i], memory_.pictures[i].tokens);
  for (int64_t step = plan_.first_step; step < plan_.steps(); ++step) {
    const std::optional<std::vector<bool>> asked = wanted();
    if (!asked) break;
    const std::vector<bool>& go_on = *asked;
    const auto place = static_cast<size_t>(step);
    StepKind kind{.is_controlled = plan_.has_control() && plan_.control_scales[place] != 0};
    for (size_t i = 0; i < go_on.size(); ++i) {
      const bool guided = plan_.pictures[i].guidance.applies_at(plan_.schedule.elapsed[place]);
      kind.pictures.push_back(!go_on[i] ? Prediction::none : guided ? Prediction::guided : Prediction::plain);
    }
    if (std::ranges::count(go_on, true) == 0) return;
    Stopwatch watch(ctx_);
    enqueue_step(step, kind);
    watch.end(ctx_);
    steps_.push_back(std::move(watch));
    keep_one_ahead(step + 1, on_step);
  }
  for (size_t i = 0; i < latents.size(); ++i) {
    plan_.share.gather_tokens(ctx_, memory_.pictures[i].tokens, memory_.gathered_tokens, memory_.all_tokens);
    ops::unpatchify(ctx_, memory_.all_tokens, plan_.share.plan().request.patch, latents[i]);
  }
}

void Sampler::enqueue_step(int64_t step, const StepKind& kind) {
  select_step(step);
  const auto known = left_.steps.find(kind);
  const bool is_first = known == left_.steps.end();
  if (!is_first && known->second && !on_velocity_) {
    const auto launch = [&] { known->second.launch(ctx_); };
    return plan_.world == nullptr ? launch() : plan_.world->device().enqueue_together(launch);
  }
  const std::vector<DenoisePass> passes = own_passes(plan_, memory_, kind);
  run_half(is_first, [&] { memory_.denoiser->predict(ctx_, passes); });
  finish_step(step, kind);
  if (is_first && left_.steps.size() == SamplerLeft::kMostSteps) return;
  Graph& recorded = left_.steps[kind];
  if (plan_.can_record) {
    check(!on_velocity_, "what is recorded cannot be watched");
    recorded = Graph::record(ctx_, [&] {
      memory_.denoiser->predict(ctx_, passes);
      finish_step(step, kind);
    });
  }
}

void Sampler::run_half(bool is_first, const std::function<void()>& work) {
  const bool takes_turns = is_first && plan_.halves != nullptr && ctx_.device().kind == DeviceKind::cuda;
  if (!takes_turns) return work();
  plan_.world->barrier();
  for (int half = 0; half < plan_.halves->world(); ++half) {
    if (half == plan_.halves->rank()) work();
    plan_.world->barrier();
  }
}

void Sampler::select_step(int64_t step) {
  memory_.denoiser->select_step(ctx_, step);
  const ops::RowRun row{step, 0, 1};
  ops::copy_rows(ctx_, memory_.deltas, memory_.step_delta, {&row, 1});
  if (plan_.has_mask) ops::copy_rows(ctx_, memory_.levels, memory_.step_level, {&row, 1});
}

void Sampler::finish_step(int64_t step, const StepKind& kind) {
  if (plan_.halves != nullptr) exchange_halves(kind);
  for (size_t i = 0; i < kind.pictures.size(); ++i) {
    if (kind.pictures[i] == Prediction::none) continue;
    if (kind.pictures[i] == Prediction::guided) guide(i);
    const auto& [tokens, velocity, clean, noise] = memory_.pictures[i];
    if (on_velocity_) on_velocity_(i, step + 1, velocity[kPositive]);
    ops::euler_step(ctx_, velocity[kPositive], memory_.step_delta, tokens);
    if (plan_.has_mask) ops::mix_noise(ctx_, clean, noise, memory_.step_level, memory_.mask, tokens);
  }
}

void Sampler::keep_one_ahead(int64_t step, const OnStep& on_step) {
  const Stopwatch& now = steps_.back();
  const Stopwatch* before = steps_.size() > 1 ? &steps_[steps_.size() - 2] : nullptr;
  ctx_.throw_if_cancelled();
  while (before != nullptr && !before->is_done()) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    ctx_.throw_if_cancelled();
    if (plan_.world != nullptr) plan_.world->device().check_peers();
  }
  on_step(step, now.is_done() ? now.ms() : before != nullptr ? before->ms() : 0);
}

void Sampler::exchange_halves(const StepKind& kind) {
  Communicator& halves = *plan_.halves;
  const int other = 1 - halves.rank();
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  for (size_t i = 0; i < kind.pictures.size(); ++i) {
    for (const Side side : sides_of(kind.pictures[i])) {
      const View velocity = memory_.pictures[i].velocity[side];
      const ByteView bytes = device_bytes(ctx_, velocity);
      if (plan_.computes(side))
        sends.push_back({other, bytes});
      else
        receives.push_back({other, bytes});
    }
  }
  halves.exchange("guidance halves", sends, receives).wait();
}

void Sampler::guide(size_t picture) {
  const auto& [positive, negative] = memory_.pictures[picture].velocity;
  const Guidance& guidance = plan_.pictures[picture].guidance;
  // The other form is the same formula from the other side.
  if (guidance.form == GuidanceForm::from_negative)
    return ops::guide(ctx_, negative, positive, -guidance.scale, positive);
  const bool is_capped = guidance.normalization > 0;
  ops::guide(ctx_, positive, negative, guidance.scale, positive, is_capped ? memory_.token_squares : View{});
  if (is_capped) cap_norm(ctx_, plan_.share, memory_, guidance.normalization, positive);
}

}  // namespace nostos
