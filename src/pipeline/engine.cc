// Implements the engine: requests are checked, and drawn lane by lane.
#include "pipeline/engine.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "families/registry.h"
#include "ops/linear.h"
#include "pipeline/batch.h"
#include "pipeline/draw.h"
#include "pipeline/places.h"

namespace nostos {
namespace {

/// \return how the ranks of a lane share a drawing. \throws Error invalid_input
Parallelism parallelism_of(const Lane& lane, parallel::PlanKind plan) {
  const auto ranks = static_cast<int64_t>(lane.places.size());
  require(!lane.halves || ranks % 2 == 0, ErrorKind::invalid_input,
          "a lane of {} places has no halves for the branches of guidance: give it an even number", ranks);
  return {.ulysses = lane.halves ? ranks / 2 : ranks, .cfg = lane.halves ? 2 : 1, .plan = plan};
}

}  // namespace

struct Engine::Impl {
  Impl(const EngineOptions& given, Communicator* given_processes)
      : options(given),
        processes(given_processes),
        places(options, processes),
        adapter_files(std::make_shared<AdapterFiles>(places.model().parts.family(), options.file_hashes)) {
    places.read_adapters_by(adapter_files);
    for (int place = 0; place < places.count(); ++place) all.places.push_back(place);
    all.halves = options.parallelism.cfg > 1;
  }

  std::vector<ResolvedRequest> resolve_all(std::span<const GenerationRequest> requests) const;
  /// \param stretch with what is the same for all lanes, and the parallelism of the first
  std::vector<Generation> draw(Stretch stretch, const LaneChange& change);
  /// One lane's part of a drawing, which then goes on with `next`.
  Drawn draw_on_lane(const Stretch& stretch);
  const ModelLimits& limits() const { return places.model().parts.shape().limits; }

  EngineOptions options;
  Communicator* processes;
  Places places;
  std::shared_ptr<AdapterFiles> adapter_files;  // of all models
  Lane all;
};

Drawn Engine::Impl::draw_on_lane(const Stretch& stretch) {
  Drawn drawn;
  try {
    places.run(stretch.lane.places, [&](Rank& rank, Communicator& world) {
      Drawn own = nostos::draw(rank, world, stretch);
      if (processes != nullptr || world.rank() == kRoot) drawn = std::move(own);
    });
  } catch (...) {
    places.disconnect(stretch.lane.places);
    throw;
  }
  return drawn;
}

std::vector<Generation> Engine::Impl::draw(Stretch stretch, const LaneChange& change) {
  Places::Hold hold(places, stretch.lane.places, stretch.requests.front().request.adapters);
  Lane next = stretch.lane;
  if (change.next)
    stretch.hands_over = [&](int64_t done, int64_t all_steps) {
      next = change.next({stretch.lane, done, all_steps});
      if (next == stretch.lane) return false;
      parallelism_of(next, options.parallelism.plan);
      hold.add(next.places);
      return true;
    };
  for (std::unique_ptr<HandOver> handed;;) {
    Drawn drawn = draw_on_lane(stretch);
    if (drawn.rest == nullptr) return std::move(drawn.made);
    handed = std::move(drawn.rest);
    stretch.from = handed.get();
    stretch.lane = next;
    stretch.parallelism = parallelism_of(next, options.parallelism.plan);
    hold.keep(next.places);
    if (change.changed) change.changed(next);
  }
}

ModelShape read_model_shape(const ModelFiles& files) { return read_family_shape(files); }

Engine::Engine(const EngineOptions& options, Communicator* processes) {
  require(processes == nullptr || processes->world() == options.parallelism.ranks(), ErrorKind::invalid_input,
          "{} processes were started for {} ranks", processes == nullptr ? 1 : processes->world(),
          options.parallelism.ranks());
  require(options.attention_precision != Precision::int8 || options.parallelism.ring == 1, ErrorKind::invalid_input,
          "--attention-precision int8 takes the mean of all keys off, which no rank of a ring has: leave --ring-degree "
          "out, or use auto");
  impl_ = std::make_unique<Impl>(options, processes);
}

Engine::~Engine() = default;

const ModelLimits& Engine::limits() const { return impl_->limits(); }

const char* Engine::precision_name() const {
  if (impl_->options.precision == Precision::int8) return "int8";
  return impl_->places.model().dtype == DType::bf16 ? "bf16" : "f32";
}

double Engine::measure_matmul_gflops(int64_t rows) {
  LoadedModel& model = impl_->places.model();
  const auto [in, out] = model.parts.family().largest_product();
  const double of_one = ops::measure_linear_gflops(model.ctx, model.dtype, rows, in, out);
  return of_one * static_cast<double>(impl_->places.devices());
}

std::shared_ptr<AdapterFiles> Engine::adapter_files() const { return impl_->adapter_files; }

int Engine::places() const { return impl_->places.count(); }

std::vector<int> Engine::lost_places() const { return impl_->places.lost(); }

namespace {

/// \return how many images like the request's one forward pass takes, at least 1.
int64_t images_of_a_pass(const ModelParts& parts, const ResolvedRequest& resolved, const Parallelism& parallelism,
                         Device device) {
  constexpr int64_t kUsualPrompt = 64;  // tokens
  const int64_t side = parts.shape().token_side();
  int64_t tokens = resolved.drawn_height / side * (resolved.drawn_width / side);
  tokens += parts.family().embedding_shape({kUsualPrompt, *resolved.request.max_sequence_length})[0];
  for (const ImageSize& size : resolved.reference_sizes) tokens += size.height / side * (size.width / side);
  const int64_t ranks = parallelism.ulysses * parallelism.ring;
  const int64_t passes = resolved.is_guided && parallelism.cfg == 1 ? 2 : 1;
  return std::max<int64_t>(max_batch_rows(device) / (passes * ((tokens + ranks - 1) / ranks)), 1);
}

}  // namespace

int64_t Engine::pictures_at_once(const GenerationRequest& request) const {
  const EngineOptions& options = impl_->options;
  return images_of_a_pass(impl_->places.model().parts, resolve(request, limits()), options.parallelism, options.device);
}

int64_t Engine::pictures_at_once(const GenerationRequest& request, const Lane& lane) const {
  const EngineOptions& options = impl_->options;
  return images_of_a_pass(impl_->places.model().parts, resolve(request, limits()),
                          parallelism_of(lane, options.parallelism.plan), options.device);
}

bool Engine::takes_together(const GenerationRequest& a, const GenerationRequest& b) const {
  try {
    return draws_together(resolve(a, limits()), resolve(b, limits()));
  } catch (const Error&) {
    return false;
  }
}

Generation Engine::generate(const GenerationRequest& request, const Progress& progress) {
  return std::move(generate(std::span(&request, 1), std::span(&progress, 1)).front());
}

std::vector<ResolvedRequest> Engine::Impl::resolve_all(std::span<const GenerationRequest> requests) const {
  require(!requests.empty(), ErrorKind::invalid_input, "there is no request");
  // Every process must find the same, and rank 0 alone has the pixels.
  const auto has_hash = [](const ReferenceImage& image) { return !image.sha256.empty(); };
  const auto is_comparable = [&](const GenerationRequest& one) {
    return std::ranges::all_of(one.images, has_hash) && (!one.mask || has_hash(one.mask->image)) &&
           (!one.control || !one.control->image || has_hash(*one.control->image));
  };
  require(processes == nullptr || requests.size() == 1 || std::ranges::all_of(requests, is_comparable),
          ErrorKind::invalid_input, "an image has no sha256: processes compare the images of several requests by it");
  std::vector<ResolvedRequest> resolved;
  for (size_t i = 0; i < requests.size(); ++i) {
    for_request(i, requests.size(), [&] {
      const ResolvedRequest& made = resolved.emplace_back(resolve(requests[i], limits()));
      const ResolvedRequest& first = resolved.front();
      require(
          draws_together(made, first), ErrorKind::invalid_input,
          "drawn at {}x{} with {} steps, it cannot be drawn together with one at {}x{} with {} steps, or with other "
          "sigmas, images, strength, mask or control",
          made.drawn_width, made.drawn_height, *made.request.num_inference_steps, first.drawn_width, first.drawn_height,
          *first.request.num_inference_steps);
    });
  }
  return resolved;
}

namespace {

/// Calls `draw` with the progress of each request, which are silent where none are given.
template <class Draw>
std::vector<Generation> with_progress(size_t requests, std::span<const Progress> progress, const Draw& draw) {
  require(progress.empty() || progress.size() == requests, ErrorKind::invalid_input,
          "{} requests come with {} progresses: each has its own, or none has one", requests, progress.size());
  if (!progress.empty()) return draw(progress);
  const std::vector<Progress> silent(requests);
  return draw(std::span<const Progress>(silent));
}

}  // namespace

std::vector<Generation> Engine::generate(std::span<const GenerationRequest> requests,
                                         std::span<const Progress> progress) {
  const std::vector<ResolvedRequest> resolved = impl_->resolve_all(requests);
  return with_progress(requests.size(), progress, [&](std::span<const Progress> followed) {
    return impl_->draw({resolved, followed, impl_->options.parallelism, impl_->all}, {});
  });
}

std::vector<Generation> Engine::draw(std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                                     const Lane& lane, const LaneChange& change) {
  require(impl_->processes == nullptr, ErrorKind::invalid_input,
          "ranks that are processes of their own make no lanes: start one process for all GPUs, --num-gpus");
  const std::vector<ResolvedRequest> resolved = impl_->resolve_all(requests);
  return with_progress(requests.size(), progress, [&](std::span<const Progress> followed) {
    return impl_->draw({resolved, followed, parallelism_of(lane, impl_->options.parallelism.plan), lane}, change);
  });
}

}  // namespace nostos
