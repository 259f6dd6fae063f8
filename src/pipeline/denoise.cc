// Implements the denoising stage.
#include "pipeline/denoise.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "parallel/shard_plan.h"
#include "pipeline/encode.h"
#include "pipeline/hand_over.h"
#include "pipeline/report.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// One batch while it is denoised.
struct BatchRun {
  size_t first;  ///< place of its first picture among all
  std::span<const PicturePlace> places;
  std::span<const View> states;
};

/// Makes the latents of every picture of the batch, or takes those of its last step.
void begin(Drawing& drawing, const BatchRun& batch, const SourceMemory& source, const DenoiseInputs& inputs,
           Sampler& sampler) {
  const Shape shape = drawing.latent_shape();
  for (size_t i = 0; i < batch.places.size(); ++i) {
    Tensor& latents = drawing.picture_at(batch.places[i]).latents;
    const bool was_begun = drawing.steps_done[batch.first + i] > 0;
    // What of a picture is known is made anew, as it was for the picture's first step.
    if (!was_begun || inputs.mask) {
      Tensor made(Device{}, DType::f32, {1, shape[0], shape[1], shape[2]});
      fill_initial_state(drawing, batch.places[i], inputs.source, source, made.view().reshape(shape), batch.states[i]);
      if (!was_begun) latents = std::move(made);
    }
    if (was_begun) upload(drawing.ctx(), latents.view().reshape(shape), batch.states[i]);
    if (inputs.mask) sampler.know(i, source.clean, source.noise, inputs.mask);
  }
}

/// Counts a step of the batch, and tells those who follow.
void tell_step(Drawing& drawing, const DenoiseBatches& plan, const BatchRun& batch, double step_ms) {
  for (size_t i = 0; i < batch.places.size(); ++i) {
    const PicturePlace& place = batch.places[i];
    ++drawing.steps_done[batch.first + i];
    const Progress& progress = drawing.progress[place.request];
    if (!drawing.is_root() || !progress.on_step || !drawing.is_wanted(place)) continue;
    int64_t done = 0;
    for (size_t j = 0; j < plan.places.size(); ++j)
      if (plan.places[j].request == place.request) done += drawing.steps_done[j];
    const auto of_request = std::ranges::count(batch.places, place.request, &PicturePlace::request);
    progress.on_step(done, drawing.request_of(place).num_outputs * drawing.steps_of_image(),
                     step_ms / static_cast<double>(of_request));
  }
}

/// Shows what step `step` of `steps`, from 1, predicts, where that is wanted.
void preview(Drawing& drawing, Previewer& previewer, const BatchRun& batch, int64_t step, int64_t steps) {
  std::vector<StepOrders::Step> done;
  for (const PicturePlace& place : batch.places) {
    const bool is_over = step == steps || !drawing.is_wanted(place);
    done.push_back({place.request, {static_cast<int64_t>(place.index), step}, is_over});
  }
  const std::vector<bool> wanted = drawing.orders.previews(done);
  for (size_t i = 0; i < done.size(); ++i) {
    if (!wanted[i]) continue;
    previewer.after_step(i, step - 1, [progress = drawing.progress, at = done[i]](const Image& picture) {
      progress[at.request].on_preview(at.of, picture);
    });
  }
}

/// Asks whether another lane draws on: at every step but a lane's first, so that no drawing goes round without a step.
/// \return whether that is so; then all steps so far are done
bool leaves_lane(Drawing& drawing) {
  const HandOver* const from = drawing.stretch.from;
  if (from != nullptr && from->steps_done == drawing.steps_done) return false;
  if (!drawing.orders.hands_over(steps_done(drawing), std::ssize(drawing.steps_done) * drawing.steps_of_image()))
    return false;
  drawing.world().device().synchronize(drawing.ctx(), "steps of a lane");
  drawing.left_steps = std::chrono::steady_clock::now();
  return true;
}

/// \return of each picture of the batch whether it is still wanted, the same on every rank; nothing where another lane
/// draws on.
std::optional<std::vector<bool>> wanted_of(Drawing& drawing, const BatchRun& batch) {
  drawing.orders.drop_cancelled(drawing.made);
  if (leaves_lane(drawing)) return {};
  std::vector<bool> wanted;
  for (const PicturePlace& place : batch.places) wanted.push_back(drawing.is_wanted(place));
  return wanted;
}

/// \return batches of pictures that are not done, which have come equally far.
std::vector<Batch> batches_of(const Drawing& drawing, const SamplerPlan& all) {
  const std::vector<int64_t>& done = drawing.steps_done;
  std::vector<Batch> batches;
  for (size_t first = 0, end = 0; first < done.size(); first = end) {
    std::vector<int64_t> rows;
    for (end = first; end < done.size() && done[end] == done[first]; ++end) rows.push_back(all.rows_of(end));
    if (done[first] == drawing.steps_of_image()) continue;
    for (const Batch& batch : batch_plan(rows, max_batch_rows(drawing.ctx().device())))
      batches.push_back({first + batch.first, batch.count, batch.passes_apart});
  }
  return batches;
}

/// Denoises a batch from where its pictures stand.
void denoise_batch(Drawing& drawing, const DenoiseBatches& plan, size_t index, const DenoiseMemory& memory,
                   const DenoiseInputs& inputs, const std::function<void()>& after_first_step) {
  Context& ctx = drawing.ctx();
  const auto& [first, count, apart] = plan.batches[index];
  const BatchRun batch{first, std::span(plan.places).subspan(first, count),
                       std::span(memory.states).subspan(first, count)};
  const SamplerPlan& sampler_plan = plan.samplers[index];
  Sampler sampler(ctx, sampler_plan, memory.samplers[index], {inputs.embeddings, inputs.references, inputs.condition},
                  drawing.rank.memory.left());
  if (index == 0 && drawing.stretch.from == nullptr) {
    drawing.report.transformer_flop = sampler.step_flop();
    drawing.report.transformer_rows = sampler.rows();
  }
  begin(drawing, batch, memory.source, inputs, sampler);
  if (index == 0) report_lane(drawing);
  std::optional<Previewer> previewer;
  if (drawing.orders.has_previews())
    previewer.emplace(ctx, sampler_plan, memory.samplers[index], memory.preview, drawing.rank.previews,
                      drawing.is_root() ? &drawing.family() : nullptr);
  if (std::ranges::any_of(drawing.progress, [](const Progress& p) { return static_cast<bool>(p.on_velocity); }))
    sampler.watch([&](size_t picture, int64_t step, View velocity) {
      const PicturePlace& place = batch.places[picture];
      const Progress& progress = drawing.progress[place.request];
      if (progress.on_velocity) progress.on_velocity(ctx, {static_cast<int64_t>(place.index), step}, velocity);
    });
  const auto wanted = [&] { return wanted_of(drawing, batch); };
  sampler.run(batch.states, wanted, [&](int64_t step, double step_ms) {
    // Once the first step has found out which products are fastest, which busy cores would disturb.
    if (step == sampler_plan.first_step + 1 && index == 0) after_first_step();
    if (previewer) previewer->arrived();
    tell_step(drawing, plan, batch, step_ms);
    if (previewer) preview(drawing, *previewer, batch, step, sampler_plan.steps());
  });
  if (previewer && drawing.is_left()) previewer->arrived();
  for (size_t j = 0; j < count; ++j)
    download(ctx, batch.states[j], drawing.picture_at(batch.places[j]).latents.view().reshape(drawing.latent_shape()));
  for (Stopwatch& step : sampler.take_steps()) drawing.steps.push_back(std::move(step));
}

}  // namespace

DenoiseBatches plan_batches(Drawing& drawing, std::vector<PicturePlace> places, std::vector<PicturePlan> pictures,
                            const std::vector<int64_t>& embedding_rows) {
  const GenerationRequest& request = drawing.made.front().resolved.request;
  const ModelShape& model = drawing.parts().shape();
  const Shape latent = drawing.latent_shape();
  const nn::SequenceRanks& ranks = drawing.groups.sequence();
  const parallel::Grid grid{latent[1] / model.patch, latent[2] / model.patch};
  SamplerPlan all{.share = nn::SequenceParallel(ranks,
                                                parallel::make_plan({.grid = grid,
                                                                     .ranks = ranks.all().world(),
                                                                     .kind = drawing.parallelism.plan,
                                                                     .heads = model.heads,
                                                                     .patch = model.patch,
                                                                     .pad_multiple = model.limits.token_multiple}),
                                                model.head_dim),
                  .halves = drawing.groups.halves(),
                  .world = &drawing.world(),
                  .schedule = drawing.family()
                                  .schedule(*request.num_inference_steps, request.sigmas, grid.tokens())
                                  .from(drawing.made.front().resolved.first_step),
                  .caption_tokens = embedding_rows,
                  .references = reference_grids(drawing),
                  .pictures = std::move(pictures),
                  .control_scales = drawing.made.front().resolved.control_scales,
                  .has_mask = request.mask.has_value()};
  DenoiseBatches plan{std::move(places), batches_of(drawing, all), {}};
  for (const Batch& batch : plan.batches) {
    const auto first = all.pictures.begin() + static_cast<std::ptrdiff_t>(batch.first);
    SamplerPlan& sampler = plan.samplers.emplace_back(all);
    sampler.pictures.assign(first, first + static_cast<std::ptrdiff_t>(batch.count));
    sampler.passes_apart = batch.passes_apart;
    sampler.first_step = drawing.steps_done[batch.first];
  }
  return plan;
}

DenoiseMemory take_denoise_memory(Arena& arena, const Drawing& drawing, const DenoiseBatches& plan) {
  DenoiseMemory memory;
  for (size_t i = 0; i < plan.places.size(); ++i)
    memory.states.push_back(take(arena, DType::f32, drawing.latent_shape()));
  memory.source = SourceMemory::take(arena, drawing);
  memory.preview = PreviewMemory::take(arena, drawing.parts().shape().patch_width(), plan.samplers.front());
  const size_t mark = arena.used_bytes();
  size_t end = mark;
  for (const SamplerPlan& sampler : plan.samplers) {
    arena.rewind(mark);
    memory.samplers.push_back(SamplerMemory::take(arena, drawing.family(), sampler));
    end = std::max(end, arena.used_bytes());
  }
  arena.rewind(end);
  return memory;
}

void take_denoise_scratch(Arena& arena, const DenoiseBatches& plan, DenoiseMemory& memory) {
  const size_t mark = arena.used_bytes();
  for (size_t i = 0; i < plan.samplers.size(); ++i) {
    arena.rewind(mark);
    memory.samplers[i].take_scratch(arena, plan.samplers[i]);
  }
}

void denoise(Drawing& drawing, const DenoiseBatches& plan, const DenoiseMemory& memory, const DenoiseInputs& inputs,
             const std::function<void()>& after_first_step) {
  Context& ctx = drawing.ctx();
  if (inputs.source) {
    Tensor level(Device{}, DType::f32, {1});
    *level.data<float>() = plan.samplers.front().schedule.sigmas.front();
    upload(ctx, level, memory.source.level);
  }
  for (size_t i = 0; i < plan.places.size(); ++i) {
    if (drawing.steps_done[i] < drawing.steps_of_image()) continue;
    upload(ctx, drawing.picture_at(plan.places[i]).latents.view().reshape(drawing.latent_shape()), memory.states[i]);
  }
  for (size_t i = 0; i < plan.batches.size() && !drawing.is_left(); ++i)
    denoise_batch(drawing, plan, i, memory, inputs, after_first_step);
  const nn::SequenceRanks& ranks = drawing.groups.sequence();
  const std::vector<parallel::Range> heads = parallel::split(drawing.parts().shape().heads, ranks.ulysses().world());
  drawing.report.ranks = {{drawing.world().rank(), plan.samplers.front().share.image_tokens(),
                           heads[static_cast<size_t>(ranks.place_of(ranks.all().rank()))].count, 0}};
}

}  // namespace nostos
