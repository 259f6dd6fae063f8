// Implements the denoising loop.
#include "pipeline/sampler.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "ops/copy_rows.h"
#include "ops/elementwise.h"
#include "ops/patches.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// The forward passes that a rank makes in a step, and the images that they begin with.
struct StepPasses {
  struct Image {
    size_t picture, caption;  ///< the caption's length decides where the image stands
  };
  struct Pass {
    size_t picture;
    Side side;
    size_t image;  ///< of `images`
  };
  std::vector<Image> images;
  std::vector<Pass> passes;
};

std::span<const Side> sides_of(Prediction prediction) {
  static constexpr std::array kSides{kPositive, kNegative};
  return std::span(kSides).first(static_cast<size_t>(prediction));
}

StepPasses passes_of(const SamplerPlan& plan, const StepKind& kind) {
  StepPasses step;
  for (size_t picture = 0; picture < kind.size(); ++picture) {
    const std::array<size_t, 2>& captions = plan.pictures[picture].captions;
    for (const Side side : sides_of(kind[picture])) {
      if (!plan.computes(side)) continue;
      // An image before captions as long as each other is the same.
      const bool is_shared = side == kNegative && plan.computes(kPositive) &&
                             plan.caption_tokens[captions[kPositive]] == plan.caption_tokens[captions[kNegative]];
      if (!is_shared) step.images.push_back({picture, captions[side]});
      step.passes.push_back({picture, side, step.images.size() - 1});
    }
  }
  return step;
}

/// \return the kind of step in which every picture is wanted, and guided if any of its steps is.
StepKind whole_step(const SamplerPlan& plan) {
  StepKind kind;
  for (const PicturePlan& picture : plan.pictures)
    kind.push_back(picture.guidance.is_on() ? Prediction::guided : Prediction::plain);
  return kind;
}

/// Lays out the memory of a step, phase by phase, all at once or pass by pass: calls refine(first, count, scratch,
/// refined) for images, then forward(first, count, scratch, refined) for passes.
template <class Refine, class Forward>
void lay_out_step(Arena& arena, const zimage::Config& config, DType dtype, const SamplerPlan& plan,
                  std::span<const zimage::Conditioning> conditionings, const StepPasses& step, const Refine& refine,
                  const Forward& forward) {
  const auto in_groups = [&](size_t all, const auto& work) {
    const size_t group = plan.passes_apart ? 1 : all;
    for (size_t first = 0; first < all; first += group) work(first, group);
  };
  const int64_t image_rows = plan.share.image().rows();
  const View refined = take(arena, DType::f32, {std::ssize(step.images) * image_rows, config.hidden});
  const size_t mark = arena.used_bytes();
  in_groups(step.images.size(), [&](size_t first, size_t count) {
    arena.rewind(mark);
    refine(first, count, zimage::take_image_scratch(arena, config, plan.share, count, dtype), refined);
  });
  in_groups(step.passes.size(), [&](size_t first, size_t count) {
    std::vector<const zimage::Conditioning*> of_passes;
    for (const auto& [picture, side, image] : std::span(step.passes).subspan(first, count))
      of_passes.push_back(&conditionings[plan.pictures[picture].captions[side]]);
    arena.rewind(mark);
    forward(first, count, zimage::Scratch::take(arena, config, plan.share, of_passes, dtype), refined);
  });
}

}  // namespace

int64_t SamplerPlan::rows_of(size_t picture) const {
  const int64_t ranks = share.plan().request.ranks;
  const auto rows = [&](Side side) {
    const int64_t caption = caption_tokens[pictures[picture].captions[side]];
    return (share.plan().padded_tokens() + caption + ranks - 1) / ranks;
  };
  if (!pictures[picture].guidance.is_on()) return rows(kPositive);
  return halves != nullptr ? std::max(rows(kPositive), rows(kNegative)) : rows(kPositive) + rows(kNegative);
}

SamplerMemory SamplerMemory::take(Arena& arena, const zimage::Config& config, DType dtype, const SamplerPlan& plan) {
  const Shape local{plan.share.image_tokens(), config.patch_width()};
  const Shape all{plan.share.grid().tokens(), config.patch_width()};
  SamplerMemory memory;
  memory.conditionings.resize(plan.caption_tokens.size());
  bool is_capped = false;
  for (const PicturePlan& planned : plan.pictures) {
    Picture& picture = memory.pictures.emplace_back();
    picture.tokens = nostos::take(arena, DType::f32, local);
    for (const Side side : sides_of(planned.guidance.is_on() ? Prediction::guided : Prediction::plain)) {
      picture.velocity[side] = nostos::take(arena, DType::f32, local);
      zimage::Conditioning& conditioning = memory.conditionings[planned.captions[side]];
      if (!plan.computes(side) || conditioning.padded_caption > 0) continue;
      conditioning = zimage::Conditioning::take(arena, config, plan.share, plan.caption_tokens[planned.captions[side]]);
    }
    is_capped = is_capped || planned.guidance.normalization > 0;
  }
  memory.modulation = zimage::Modulation::take(arena, config, plan.steps(), dtype);
  memory.deltas = nostos::take(arena, DType::f32, {1, plan.steps(), 1});
  memory.step_delta = nostos::take(arena, DType::f32, {1, 1, 1});
  memory.all_tokens = nostos::take(arena, DType::f32, all);
  memory.gathered_tokens = nostos::take(arena, DType::f32, all);
  if (is_capped) {
    memory.token_squares = nostos::take(arena, DType::f64, {local[0], 2});
    memory.all_squares = nostos::take(arena, DType::f64, {all[0], 2});
    memory.gathered_squares = nostos::take(arena, DType::f64, {all[0], 2});
  }
  return memory;
}

void SamplerMemory::take_scratch(Arena& arena, const zimage::Config& config, DType dtype, const SamplerPlan& plan) {
  Arena measure(arena.device());
  const auto nothing = [](auto&&...) {};
  lay_out_step(measure, config, dtype, plan, conditionings, passes_of(plan, whole_step(plan)), nothing, nothing);
  scratch = nostos::take(arena, DType::u8, {static_cast<int64_t>(measure.peak_bytes())});
}

void cap_norm(Context& ctx, const nn::SequenceParallel& share, const SamplerMemory& memory, float ratio,
              View velocity) {
  share.gather_tokens(ctx, memory.token_squares, memory.gathered_squares, memory.all_squares);
  ops::cap_norm(ctx, memory.all_squares, ratio, velocity);
}

Sampler::Sampler(Context& ctx, const zimage::Transformer& transformer, const SamplerPlan& plan,
                 const SamplerMemory& memory, std::span<const ConstView> captions, SamplerLeft& left)
    : ctx_(ctx), transformer_(transformer), plan_(plan), memory_(memory), left_(left) {
  if (left_.caption_tokens != plan_.caption_tokens || left_.pictures != plan_.pictures)
    left_ = {.caption_tokens = plan_.caption_tokens, .pictures = plan_.pictures};
  run_half(!left_.has_positions, [&] {
    for (size_t i = 0; i < memory_.conditionings.size(); ++i) {
      const zimage::Conditioning& conditioning = memory_.conditionings[i];
      if (conditioning.padded_caption == 0) continue;
      if (!left_.has_positions) transformer_.fill_positions(ctx_, plan_.share, conditioning);
      transformer_.take_caption(ctx_, plan_.share, captions[i], conditioning);
    }
  });
  left_.has_positions = true;
  transformer_.modulate(ctx_, plan_.schedule.times, memory_.modulation);
  Tensor deltas(Device{}, DType::f32, memory_.deltas.shape());
  for (size_t step = 0; step < plan_.schedule.times.size(); ++step)
    deltas.data<float>()[step] = plan_.schedule.sigmas[step + 1] - plan_.schedule.sigmas[step];
  upload(ctx_, deltas, memory_.deltas);
}

int64_t Sampler::rows() const {
  int64_t all = 0, largest = 0;
  for (const auto& [picture, side, image] : passes_of(plan_, whole_step(plan_)).passes) {
    const int64_t rows = memory_.conditionings[plan_.pictures[picture].captions[side]].sequence.rows();
    all += rows;
    largest = std::max(largest, rows);
  }
  return plan_.passes_apart ? largest : all;
}

double Sampler::step_flop() const {
  const int64_t padded_image = plan_.share.plan().padded_tokens();
  double flop = 0;
  for (const PicturePlan& picture : plan_.pictures) {
    const int64_t positive = plan_.caption_tokens[picture.captions[kPositive]];
    flop += transformer_.refine_flop(padded_image) + transformer_.forward_flop(padded_image, positive);
    if (!picture.guidance.is_on()) continue;
    const int64_t negative = plan_.caption_tokens[picture.captions[kNegative]];
    if (plan_.halves != nullptr || positive != negative) flop += transformer_.refine_flop(padded_image);
    flop += transformer_.forward_flop(padded_image, negative);
  }
  return flop;
}

void Sampler::run(std::span<const View> latents, const Wanted& wanted, const OnStep& on_step) {
  const int64_t patch = transformer_.config().patch;
  for (size_t i = 0; i < latents.size(); ++i) {
    ops::patchify(ctx_, latents[i], patch, memory_.all_tokens);
    plan_.share.cut_tokens(ctx_, memory_.all_tokens, memory_.pictures[i].tokens);
  }
  for (int64_t step = 0; step < plan_.steps(); ++step) {
    const std::vector<bool> go_on = wanted();
    StepKind kind;
    for (size_t i = 0; i < go_on.size(); ++i) {
      const bool guided = plan_.pictures[i].guidance.applies_at(plan_.schedule.times[static_cast<size_t>(step)]);
      kind.push_back(!go_on[i] ? Prediction::none : guided ? Prediction::guided : Prediction::plain);
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
    ops::unpatchify(ctx_, memory_.all_tokens, patch, latents[i]);
  }
}

void Sampler::enqueue_step(int64_t step, const StepKind& kind) {
  select_step(step);
  const auto known = left_.steps.find(kind);
  const bool is_first = known == left_.steps.end();
  if (!is_first && known->second) {
    const auto launch = [&] { known->second.launch(ctx_); };
    return plan_.world == nullptr ? launch() : plan_.world->device().enqueue_together(launch);
  }
  run_half(is_first, [&] { predict(kind); });
  finish_step(kind);
  if (is_first && left_.steps.size() == SamplerLeft::kMostSteps) return;
  Graph& recorded = left_.steps[kind];
  if (plan_.can_record) {
    recorded = Graph::record(ctx_, [&] {
      predict(kind);
      finish_step(kind);
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
  zimage::Transformer::select_step(ctx_, memory_.modulation, step);
  const ops::RowRun row{step, 0, 1};
  ops::copy_rows(ctx_, memory_.deltas, memory_.step_delta, {&row, 1});
}

void Sampler::finish_step(const StepKind& kind) {
  if (plan_.halves != nullptr) exchange_halves(kind);
  for (size_t i = 0; i < kind.size(); ++i) {
    const auto& [tokens, velocity] = memory_.pictures[i];
    if (kind[i] == Prediction::guided) guide(i);
    if (kind[i] != Prediction::none) ops::euler_step(ctx_, velocity[kPositive], memory_.step_delta, tokens);
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

void Sampler::predict(const StepKind& kind) {
  const StepPasses step = passes_of(plan_, kind);
  const int64_t image_rows = plan_.share.image().rows();
  Arena arena(ctx_.device(), memory_.scratch.bytes(), memory_.scratch.size_in_bytes());
  const auto refine = [&](size_t first, size_t count, const zimage::BlockScratch& scratch, View refined) {
    std::vector<zimage::ImageInput> images;
    for (const auto& [picture, caption] : std::span(step.images).subspan(first, count))
      images.push_back({memory_.pictures[picture].tokens, memory_.conditionings[caption].rope.rows(0, image_rows)});
    transformer_.refine_images(
        ctx_, plan_.share, images, memory_.modulation, scratch,
        refined.rows(static_cast<int64_t>(first) * image_rows, static_cast<int64_t>(count) * image_rows));
  };
  const auto forward = [&](size_t first, size_t count, const zimage::Scratch& scratch, View refined) {
    std::vector<zimage::Pass> passes;
    for (const auto& [picture, side, image] : std::span(step.passes).subspan(first, count)) {
      passes.push_back({refined.rows(static_cast<int64_t>(image) * image_rows, image_rows),
                        &memory_.conditionings[plan_.pictures[picture].captions[side]],
                        memory_.pictures[picture].velocity[side]});
    }
    transformer_.forward(ctx_, plan_.share, passes, memory_.modulation, scratch);
  };
  lay_out_step(arena, transformer_.config(), transformer_.dtype(), plan_, memory_.conditionings, step, refine, forward);
}

void Sampler::exchange_halves(const StepKind& kind) {
  Communicator& halves = *plan_.halves;
  const int other = 1 - halves.rank();
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  for (size_t i = 0; i < kind.size(); ++i) {
    for (const Side side : sides_of(kind[i])) {
      const View velocity = memory_.pictures[i].velocity[side];
      const ByteView bytes{velocity.bytes(), velocity.size_in_bytes(), ctx_.device()};
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
  const bool is_capped = guidance.normalization > 0;
  ops::guide(ctx_, positive, negative, guidance.scale, positive, is_capped ? memory_.token_squares : View{});
  if (is_capped) cap_norm(ctx_, plan_.share, memory_, guidance.normalization, positive);
}

}  // namespace nostos
