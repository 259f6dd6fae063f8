// Implements a drawing: plans it, lays out its memory, and hands values from stage to stage.
#include "pipeline/draw.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "pipeline/captions.h"
#include "pipeline/decode.h"
#include "pipeline/denoise.h"
#include "pipeline/drawing.h"
#include "pipeline/encode.h"
#include "pipeline/report.h"

namespace nostos {
namespace {

/// Lets a context watch a cancel flag for as long as a generation runs.
class CancelWatch {
 public:
  CancelWatch(Context& ctx, const std::atomic<bool>* flag) : ctx_(ctx) { ctx_.watch_cancel(flag); }
  ~CancelWatch() { ctx_.watch_cancel(nullptr); }
  CancelWatch(const CancelWatch&) = delete;
  CancelWatch& operator=(const CancelWatch&) = delete;

 private:
  Context& ctx_;
};

/// What the requests ask for: pictures, and the prompts that they are made of, each once.
struct Wishes {
  std::vector<Prompt> prompts;
  std::vector<PicturePlace> places;
  std::vector<PicturePlan> pictures;  ///< at each place; captions are places in prompts
};

struct DrawingMemory {
  CaptionMemory captions;
  EncodeMemory encode;
  DenoiseMemory denoise;
  DecodeMemory decode;  ///< empty where parts take turns
};

void require_drawable(std::span<const ResolvedRequest> requests, const Parallelism& parallelism, GuidanceForm form) {
  for (size_t i = 0; i < requests.size(); ++i) {
    check(draws_together(requests[i], requests.front()), "requests of one drawing share size and noise levels");
    for_request(i, requests.size(), [&] {
      if (requests[i].is_guided || parallelism.cfg == 1) return;
      const std::string flag =
          fmt::format("--cfg-parallel-degree {} splits the two halves of guidance, and", parallelism.cfg);
      require(form != GuidanceForm::none, ErrorKind::invalid_input,
              "{} this model is distilled and draws without guidance: use --cfg-parallel-degree 1", flag);
      fail(ErrorKind::invalid_input, "{} --guidance-scale {} has one: use --cfg-parallel-degree 1, or guidance", flag,
           *requests[i].request.guidance_scale);
    });
  }
}

Wishes wishes_of(std::span<const Generation> requests, GuidanceForm form) {
  Wishes wishes;
  const auto prompt_of = [&](const std::string& text, int64_t max_tokens) {
    const Prompt prompt{text, max_tokens};
    const auto known = std::ranges::find(wishes.prompts, prompt);
    const auto place = static_cast<size_t>(known - wishes.prompts.begin());
    if (known == wishes.prompts.end()) wishes.prompts.push_back(prompt);
    return place;
  };
  for (size_t request = 0; request < requests.size(); ++request) {
    const GenerationRequest& r = requests[request].resolved.request;
    PicturePlan plan{.guidance = {static_cast<float>(*r.guidance_scale), static_cast<float>(r.cfg_normalization),
                                  static_cast<float>(r.cfg_truncation), form}};
    plan.captions[kPositive] = prompt_of(r.prompt, *r.max_sequence_length);
    if (plan.guidance.is_on()) plan.captions[kNegative] = prompt_of(r.negative_prompt, *r.max_sequence_length);
    for (int64_t i = 0; i < r.num_outputs; ++i) {
      wishes.places.push_back({request, static_cast<size_t>(i)});
      wishes.pictures.push_back(plan);
    }
  }
  return wishes;
}

PartUses uses_of(const Drawing& drawing) {
  return {.text = drawing.is_root() && drawing.stretch.from == nullptr, .control = drawing.has_control()};
}

Conditioning conditioning_of(const DrawingMemory& memory) {
  const EncodeMemory& encode = memory.encode;
  return {memory.captions.embeddings, encode.references, encode.source, encode.mask, encode.condition};
}

/// On the process's leader: has the weights leave room for this drawing, and loads them where they now belong.
void make_room(Drawing& drawing, size_t scratch_bytes) {
  Context& process = drawing.rank.process.ctx;
  ModelParts& parts = drawing.parts();
  const PartUses uses = uses_of(drawing);
  parts.make_room(process, scratch_bytes, uses.control, !drawing.rank.shares_parts());
  if (drawing.takes_turns() || parts.is_loaded(uses)) return;
  drawing.enter_stage("load");
  drawing.timed("load", process, [&] { parts.load(process, uses); });
}

/// \param captions for prompt embeddings and what makes them. \param arena for all else, whose stages share memory:
/// each begins when the one before is done with it
DrawingMemory take_memory(Arena& captions, Arena& arena, const Drawing& drawing, const PromptSet& prompts,
                          const DenoiseBatches& plan) {
  DrawingMemory memory{.captions = take_caption_memory(captions, drawing, prompts),
                       .encode = take_encode_memory(arena, drawing),
                       .denoise = take_denoise_memory(arena, drawing, plan),
                       .decode = {}};
  const size_t mark = arena.used_bytes();
  if (!drawing.takes_turns()) take_encode_scratch(arena, drawing, memory.encode);
  arena.rewind(mark);
  take_denoise_scratch(arena, plan, memory.denoise);
  arena.rewind(mark);
  if (!drawing.takes_turns()) memory.decode = take_decode_memory(arena, drawing, plan.places.size());
  return memory;
}

/// Lays out the drawing's memory, and decides with the other ranks whether steps are recorded.
DrawingMemory lay_out(Drawing& drawing, const PromptSet& prompts, DenoiseBatches& plan) {
  RankMemory& rank_memory = drawing.rank.memory;
  const SamplerPlan& first = plan.samplers.front();
  std::vector<PicturePlan> pictures;
  for (const SamplerPlan& sampler : plan.samplers)
    pictures.insert(pictures.end(), sampler.pictures.begin(), sampler.pictures.end());
  const Shape latent = drawing.latent_shape();
  const ResolvedRequest& resolved = drawing.made.front().resolved;
  const DrawingShape shape{.model = &drawing.parts(),
                           .weights = drawing.parts().version(),
                           .parallelism = drawing.parallelism,
                           .rank = drawing.world().rank(),
                           .lane = drawing.stretch.lane.places,
                           .height = latent[1],
                           .width = latent[2],
                           .steps = first.steps(),
                           .caption_tokens = first.caption_tokens,
                           .images = plan.places.size(),
                           .pictures = std::move(pictures),
                           .batches = plan.batches,
                           .references = first.references,
                           .has_source = resolved.has_source,
                           .has_mask = first.has_mask,
                           .has_control = drawing.has_control(),
                           .has_control_image = drawing.has_control() && resolved.request.control->image};
  // Of memory that stays as it is make_room() is not told, but parts that no drawing has needed before must be loaded.
  if (drawing.leads() && !drawing.takes_turns() && !drawing.parts().is_loaded(uses_of(drawing))) rank_memory.release();
  DrawingMemory memory = rank_memory.lay_out(
      shape, [&](Arena& captions, Arena& rest) { return take_memory(captions, rest, drawing, prompts, plan); },
      [&](size_t bytes) {
        if (drawing.leads()) make_room(drawing, bytes);
      });
  // Rank 0 alone holds the encoder's memory, each rank has its own GPU's, and has drawn in other lanes: one may have
  // forgotten what others have left, or stream what others keep. What is recorded is launched together, or nowhere.
  std::array<int64_t, 3> counts{!rank_memory.knows_shape(), !rank_memory.has_left(),
                                drawing.parts().streams_recorded_stages()};
  drawing.world().all_reduce_sum(std::span<int64_t>(counts));
  const auto& [fresh, overwritten, streaming] = counts;
  if (fresh > 0) rank_memory.forget_shape();
  if (overwritten > 0) rank_memory.left().has_positions = false;
  const bool is_watched = std::ranges::any_of(
      drawing.progress, [](const Progress& progress) { return static_cast<bool>(progress.on_velocity); });
  drawing.can_record = drawing.ctx().device().kind == DeviceKind::cuda && drawing.world().device().can_record() &&
                       streaming == 0 && !is_watched;
  for (SamplerPlan& sampler : plan.samplers) sampler.can_record = drawing.can_record;
  drawing.report.arena_bytes = rank_memory.bytes();
  return memory;
}

/// Has the model's weights changed by the adapters that the requests have in common, on all ranks or on none. What was
/// recorded with other weights is forgotten, and so is the memory that was planned beside them.
/// \throws Error as ModelParts::adapt(); invalid_input where another rank cannot have them
void adapt(Drawing& drawing) {
  const std::vector<AdapterUse>& adapters = drawing.made.front().resolved.request.adapters;
  ModelParts& parts = drawing.parts();
  const bool is_changed = !same_changes(parts.adapters(), adapters);
  // Each rank with a model of its own has those of the lane in which it drew last.
  int64_t ranks_to_change = is_changed;
  drawing.world().all_reduce_sum(std::span(&ranks_to_change, 1));
  if (ranks_to_change == 0) return;
  const bool adapts = is_changed && drawing.leads();
  drawing.timed("adapters", drawing.rank.process.ctx, [&] {
    if (is_changed) drawing.rank.memory.release();
    drawing.world().barrier();  // nobody uses the weights, and what ranks of the same GPU had is free
    Context& ctx = drawing.rank.process.ctx;
    std::exception_ptr failure;
    std::string why;
    try {
      if (adapts) parts.adapt(ctx, adapters);
    } catch (const std::exception& error) {
      failure = std::current_exception();
      why = error.what();
    }
    // A host of several may lack a file: all ranks say what the first one found.
    Communicator& world = drawing.world();
    std::vector<int64_t> lengths(static_cast<size_t>(world.world()));
    if (failure != nullptr) lengths[static_cast<size_t>(world.rank())] = std::ssize(why) + 1;
    world.all_reduce_sum(std::span(lengths));
    const auto first = std::ranges::find_if(lengths, [](int64_t length) { return length > 0; });
    if (first == lengths.end()) return;
    const int teller = static_cast<int>(first - lengths.begin());
    why.resize(static_cast<size_t>(*first - 1));
    world.broadcast(host_bytes(std::span(why)), teller).wait();
    if (adapts && failure == nullptr) parts.adapt(ctx, {});
    if (failure != nullptr) std::rethrow_exception(failure);
    fail(ErrorKind::invalid_input, "{}", why);
  });
}

/// Fills the memory with what denoising starts from. \return copies of embeddings that are to be kept, under way
CaptionCopies condition(Drawing& drawing, const PromptSet& prompts, DrawingMemory& memory) {
  const StageParts& parts = drawing.family().stage_parts();
  const std::vector<size_t> wanted = parts.denoise_of(drawing.has_control());
  CaptionCopies copies;
  bool are_loaded = false;
  if (drawing.stretch.from != nullptr) {
    take_over(drawing, conditioning_of(memory));
  } else {
    encode_images(drawing, memory.encode);
    copies = make_captions(drawing, prompts, memory.captions);
    are_loaded = !parts.text.empty() && wanted == std::vector{parts.text.back()};
  }
  if (drawing.takes_turns() && !are_loaded) drawing.turn_to(wanted);
  return copies;
}

/// All stages but the report. \return on rank 0 what another lane draws on from, if one is to
std::unique_ptr<HandOver> run_stages(Drawing& drawing) {
  adapt(drawing);
  Wishes wishes = wishes_of(drawing.made, drawing.family().shape().limits.guidance);
  const HandOver* const from = drawing.stretch.from;
  const PromptSet prompts = from == nullptr ? tokenize(drawing, wishes.prompts) : from->conditioning->prompts;
  DenoiseBatches plan = plan_batches(drawing, std::move(wishes.places), std::move(wishes.pictures), prompts.rows);
  DrawingMemory memory = lay_out(drawing, prompts, plan);
  CaptionCopies copies = condition(drawing, prompts, memory);
  drawing.enter_stage("denoise");
  drawing.timed("denoise", drawing.ctx(), [&] {
    denoise(drawing, plan, memory.denoise,
            {embeddings_of(memory.captions, prompts), memory.encode.references, memory.encode.source,
             memory.encode.mask, memory.encode.condition},
            [&] { plan_decode(drawing, memory.denoise.states, memory.decode); });
  });
  if (drawing.is_left()) {
    drawing.world().device().synchronize(drawing.ctx(), "state of a lane");
    keep_captions(drawing, prompts, std::move(copies));
    return drawing.is_root() ? hand_over(drawing, prompts, conditioning_of(memory)) : nullptr;
  }
  decode(drawing, plan.places, memory.denoise.states, std::move(memory.decode));
  keep_captions(drawing, prompts, std::move(copies));
  return nullptr;
}

}  // namespace

Drawn draw(Rank& rank, Communicator& world, const Stretch& stretch) {
  const std::span<const ResolvedRequest> requests = stretch.requests;
  check(!requests.empty() && requests.size() == stretch.progress.size(), "each request has its progress");
  require_drawable(requests, stretch.parallelism, rank.process.parts.shape().limits.guidance);
  world.device().order_with(rank.ctx.stream());
  const uint64_t bytes_sent_before = world.traffic().bytes;
  // What blocks watch ends all ranks wherever they are; of several requests, ranks must agree on which go on.
  const std::atomic<bool>* const flag = requests.size() == 1 ? stretch.progress.front().cancel : nullptr;
  const CancelWatch watch(rank.ctx, flag);
  const bool leads = rank.leads(world);
  std::optional<CancelWatch> process_watch;
  if (leads) process_watch.emplace(rank.process.ctx, flag);
  std::optional<Drawing> drawing;
  Drawn drawn;
  try {
    drawing.emplace(rank, world, stretch);
    drawn.rest = run_stages(*drawing);
  } catch (...) {
    // What is under way would write into the memory of the next drawing, and into results that are gone.
    rank.memory.forget();
    world.device().abandon_work(rank.ctx);
    if (leads) rank.process.ctx.abandon_work();
    rank.memory.release();
    throw;
  }
  if (!drawing->is_left()) finish_report(*drawing, world.traffic().bytes - bytes_sent_before);
  if (drawing->takes_turns()) rank.memory.release();
  if (drawing->is_left()) return drawn;
  for (Generation& made : drawing->made) {
    if (!drawing->is_root() || made.cancelled) made.pictures.clear();
    made.report = drawing->report;
  }
  drawn.made = std::move(drawing->made);
  return drawn;
}

}  // namespace nostos
