// Implements the denoising stage.
#include "pipeline/denoise.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "parallel/shard_plan.h"
#include "pipeline/encode.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// One batch while it is denoised.
struct BatchRun {
  std::span<const PicturePlace> places;
  std::span<const View> states;
};

/// Makes the latents of every picture of the batch.
void begin(Drawing& drawing, const BatchRun& batch, const SourceMemory& source, const DenoiseInputs& inputs,
           Sampler& sampler) {
  const Shape shape = drawing.latent_shape();
  for (size_t i = 0; i < batch.places.size(); ++i) {
    Tensor& latents = drawing.picture_at(batch.places[i]).latents;
    latents = Tensor(Device{}, DType::f32, {1, shape[0], shape[1], shape[2]});
    fill_initial_state(drawing, batch.places[i], inputs.source, source, latents.view().reshape(shape), batch.states[i]);
    if (inputs.mask) sampler.know(i, source.clean, source.noise, inputs.mask);
  }
}

/// Tells those who follow. \param done of each request, its pictures' steps so far
void tell_step(Drawing& drawing, const BatchRun& batch, double step_ms, std::vector<int64_t>& done) {
  if (!drawing.is_root()) return;
  for (const PicturePlace& place : batch.places) {
    const Progress& progress = drawing.progress[place.request];
    if (!progress.on_step || !drawing.is_wanted(place)) continue;
    const auto of_request = std::ranges::count(batch.places, place.request, &PicturePlace::request);
    const GenerationRequest& request = drawing.request_of(place);
    progress.on_step(++done[place.request], request.num_outputs * drawing.made[place.request].resolved.steps(),
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

/// \return of each picture of the batch whether it is still wanted, the same on every rank.
std::vector<bool> wanted_of(Drawing& drawing, const BatchRun& batch) {
  drawing.orders.drop_cancelled(drawing.made);
  std::vector<bool> wanted;
  for (const PicturePlace& place : batch.places) wanted.push_back(drawing.is_wanted(place));
  return wanted;
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
  std::vector<int64_t> rows;
  for (size_t i = 0; i < all.pictures.size(); ++i) rows.push_back(all.rows_of(i));
  DenoiseBatches plan{std::move(places), batch_plan(rows, max_batch_rows(drawing.ctx().device())), {}};
  for (const Batch& batch : plan.batches) {
    const auto first = all.pictures.begin() + static_cast<std::ptrdiff_t>(batch.first);
    SamplerPlan& sampler = plan.samplers.emplace_back(all);
    sampler.pictures.assign(first, first + static_cast<std::ptrdiff_t>(batch.count));
    sampler.passes_apart = batch.passes_apart;
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
  std::vector<int64_t> steps_told(drawing.made.size());
  for (size_t i = 0; i < plan.batches.size(); ++i) {
    const auto& [first, count, apart] = plan.batches[i];
    const BatchRun batch{std::span(plan.places).subspan(first, count), std::span(memory.states).subspan(first, count)};
    const SamplerPlan& sampler_plan = plan.samplers[i];
    Sampler sampler(ctx, sampler_plan, memory.samplers[i], {inputs.embeddings, inputs.references, inputs.condition},
                    drawing.rank.memory.left());
    if (i == 0) {
      drawing.report.transformer_flop = sampler.step_flop();
      drawing.report.transformer_rows = sampler.rows();
    }
    begin(drawing, batch, memory.source, inputs, sampler);
    std::optional<Previewer> previewer;
    if (drawing.orders.has_previews())
      previewer.emplace(ctx, sampler_plan, memory.samplers[i], memory.preview, drawing.rank.previews,
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
      if (step == 1 && i == 0) after_first_step();
      if (previewer) previewer->arrived();
      tell_step(drawing, batch, step_ms, steps_told);
      if (previewer) preview(drawing, *previewer, batch, step, sampler_plan.steps());
    });
    for (size_t j = 0; j < count; ++j)
      download(ctx, batch.states[j],
               drawing.picture_at(batch.places[j]).latents.view().reshape(drawing.latent_shape()));
    for (Stopwatch& step : sampler.take_steps()) drawing.steps.push_back(std::move(step));
  }
  const nn::SequenceRanks& ranks = drawing.groups.sequence();
  const std::vector<parallel::Range> heads = parallel::split(drawing.parts().shape().heads, ranks.ulysses().world());
  drawing.report.ranks = {{drawing.world().rank(), plan.samplers.front().share.image_tokens(),
                           heads[static_cast<size_t>(ranks.place_of(ranks.all().rank()))].count, 0}};
}

}  // namespace nostos
