// Implements the engine: the model, and the ranks of this process that draw with it.
#include "pipeline/engine.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "io/folder_cache.h"
#include "ops/linear.h"
#include "parallel/nccl_communicator.h"
#include "parallel/thread_communicator.h"
#include "pipeline/model_parts.h"
#include "pipeline/rank_memory.h"
#include "pipeline/worker.h"

namespace nostos {
namespace {

DType choose_dtype(Context& ctx, Precision precision) {
  log_debug("{}: {}", to_string(ctx.device()), to_string(ops::capabilities(ctx.device())));
  if (precision == Precision::f32) return DType::f32;
  const bool has_bf16 = ops::has_bf16_products(ctx);
  require(precision != Precision::bf16 || has_bf16, ErrorKind::device,
          "--precision bf16 wants a CPU with AVX-512 BF16; this one has none: use f32 or auto");
  return has_bf16 ? DType::bf16 : DType::f32;
}

/// A device with the model on it.
struct LoadedModel {
  /// \param sharers ranks that draw with it.
  LoadedModel(const EngineOptions& options, Device device, int threads, int64_t sharers)
      : ctx(device, threads, FolderCache::in(options.cache_folder)),
        dtype(choose_dtype(ctx, options.precision)),
        parts(ctx, options.model, options.synthetic, dtype, resolve_memory(options.memory, device, sharers),
              options.variant) {}

  Context ctx;
  DType dtype;
  ModelParts parts;
};

}  // namespace

/// The ranks of this process have a *place* each: that of their thread, and the only one where ranks are processes.
struct Engine::Impl {
  Impl(const EngineOptions& given, Communicator* given_processes);
  ~Impl();

  std::vector<Generation> draw(Communicator& host, std::span<const ResolvedRequest> requests,
                               std::span<const Progress> progress);
  void disconnect() noexcept;

  size_t place_of(const Communicator& host) const {
    return processes == nullptr ? static_cast<size_t>(host.rank()) : 0;
  }
  /// \return the communicator of the rank whose hosts meet on `host`; connects its GPU with those of the others.
  Communicator& world_of(Communicator& host);

  EngineOptions options;
  Communicator* processes;
  KeptCaptions captions;                                     // rank 0's
  std::vector<std::unique_ptr<LoadedModel>> models;          // one, or one a place
  std::vector<std::unique_ptr<Context>> thread_contexts;     // of several places that share a model and the threads
  std::vector<std::unique_ptr<NcclCommunicator>> gpu_ranks;  // of places with a GPU each; null: not connected
};

Engine::Impl::Impl(const EngineOptions& given, Communicator* given_processes)
    : options(given), processes(given_processes), captions(given.kept_caption_bytes) {
  const int64_t places = processes == nullptr ? options.parallelism.ranks() : 1;
  const bool on_gpus = options.device.kind == DeviceKind::cuda;
  models.resize(options.device_per_rank ? static_cast<size_t>(places) : 1);
  if (options.device_per_rank && on_gpus) gpu_ranks.resize(models.size());
  const int all_threads = Context({}, options.threads).threads();
  const auto share_of_threads = [&](size_t place, size_t sharers) {
    const std::vector<parallel::Range> shares = parallel::split(all_threads, static_cast<int64_t>(sharers));
    return static_cast<int>(std::max<int64_t>(shares[place].count, 1));
  };
  const auto set_up = [&](Communicator& host) {
    const size_t place = place_of(host);
    Device device = options.device;
    if (on_gpus) device.index += static_cast<int>(place);
    models[place] = std::make_unique<LoadedModel>(options, device, share_of_threads(place, models.size()),
                                                  models.size() == 1 ? places : 1);
    ModelParts& parts = models[place]->parts;
    int64_t ranks_in_need = parts.wants_one_at_a_time(models[place]->ctx);
    host.all_reduce_sum(std::span(&ranks_in_need, 1));
    parts.set_one_at_a_time(ranks_in_need > 0);
    world_of(host);
    parts.load_ahead(models[place]->ctx, host.rank() == 0);
  };
  if (processes != nullptr)
    set_up(*processes);
  else
    run_thread_ranks(static_cast<int>(models.size()), set_up, {options.comm_timeout_s});
  if (places == 1 || options.device_per_rank) return;
  for (size_t place = 0; place < static_cast<size_t>(places); ++place)
    thread_contexts.push_back(
        std::make_unique<Context>(options.device, share_of_threads(place, static_cast<size_t>(places))));
}

Engine::Impl::~Impl() {
  if (gpu_ranks.empty()) return;
  // Recorded steps go before the links they use, and the links together: each waits for the others' part of its end.
  for (const std::unique_ptr<LoadedModel>& model : models) model->ctx.state<RankMemory>().forget();
  try {
    run_thread_ranks(static_cast<int>(gpu_ranks.size()),
                     [this](Communicator& host) { gpu_ranks[static_cast<size_t>(host.rank())].reset(); });
  } catch (const std::exception& error) {
    log_warning("the GPUs were not disconnected in order: {}", error.what());
  }
}

Communicator& Engine::Impl::world_of(Communicator& host) {
  if (gpu_ranks.empty()) return host;
  const size_t place = place_of(host);
  std::unique_ptr<NcclCommunicator>& rank = gpu_ranks[place];
  if (rank)
    rank->meet_on(host);
  else
    rank = std::make_unique<NcclCommunicator>(host, models[place]->ctx.device(),
                                              CommunicatorOptions{options.comm_timeout_s, options.peer_memory});
  return *rank;
}

/// One rank's part. \return as Worker::draw()
std::vector<Generation> Engine::Impl::draw(Communicator& host, std::span<const ResolvedRequest> requests,
                                           std::span<const Progress> progress) {
  const size_t place = place_of(host);
  LoadedModel& model = *models[models.size() == 1 ? 0 : place];
  Context& ctx = thread_contexts.empty() ? model.ctx : *thread_contexts[place];
  const bool leads = place == 0 || models.size() > 1;
  Worker worker(
      ctx, world_of(host), options.parallelism,
      {model.ctx, model.parts, model.parts.one_at_a_time(), options.kept_caption_bytes > 0 ? &captions : nullptr},
      leads);
  return worker.draw(requests, progress);
}

/// After a drawing that failed, maybe on some ranks alone, and that no rank works at any more: the next one connects all
/// GPUs anew.
void Engine::Impl::disconnect() noexcept {
  for (size_t place = 0; place < gpu_ranks.size(); ++place) {
    if (!gpu_ranks[place]) continue;
    models[place]->ctx.state<RankMemory>().forget();
    gpu_ranks[place]->leave();
  }
  for (std::unique_ptr<NcclCommunicator>& rank : gpu_ranks) rank.reset();
}

Engine::Engine(const EngineOptions& options, Communicator* processes) {
  require(processes == nullptr || processes->world() == options.parallelism.ranks(), ErrorKind::invalid_input,
          "{} processes were started for {} ranks", processes == nullptr ? 1 : processes->world(),
          options.parallelism.ranks());
  impl_ = std::make_unique<Impl>(options, processes);
}

Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;

const ModelLimits& Engine::limits() const { return impl_->models.front()->parts.limits(); }

const char* Engine::precision_name() const { return impl_->models.front()->dtype == DType::bf16 ? "bf16" : "f32"; }

double Engine::measure_matmul_gflops(int64_t rows) {
  LoadedModel& model = *impl_->models.front();
  const zimage::Config& config = model.parts.transformer_config();
  const double of_one = ops::measure_linear_gflops(model.ctx, model.dtype, rows, config.hidden, 2 * config.ffn());
  return of_one * static_cast<double>(impl_->models.size());
}

int64_t Engine::pictures_at_once(const GenerationRequest& request) const {
  constexpr int64_t kUsualCaption = 64;  // padded tokens
  const EngineOptions& options = impl_->options;
  const ModelParts& parts = impl_->models.front()->parts;
  const ResolvedRequest resolved = resolve(request, limits());
  const int64_t side = parts.vae_config().scale() * parts.transformer_config().patch;
  const int64_t tokens = resolved.drawn_height / side * (resolved.drawn_width / side) + kUsualCaption;
  const int64_t ranks = options.parallelism.ulysses * options.parallelism.ring;
  const int64_t passes = *resolved.request.guidance_scale > 0 && options.parallelism.cfg == 1 ? 2 : 1;
  return std::max<int64_t>(max_batch_rows(options.device) / (passes * ((tokens + ranks - 1) / ranks)), 1);
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

std::vector<Generation> Engine::generate(std::span<const GenerationRequest> requests,
                                         std::span<const Progress> progress) {
  Impl& impl = *impl_;
  require(!requests.empty() && (progress.empty() || progress.size() == requests.size()), ErrorKind::invalid_input,
          "{} requests come with {} progresses: each has its own, or none has one", requests.size(), progress.size());
  std::vector<ResolvedRequest> resolved;
  for (size_t i = 0; i < requests.size(); ++i) {
    for_request(i, requests.size(), [&] {
      const ResolvedRequest& made = resolved.emplace_back(resolve(requests[i], limits()));
      const ResolvedRequest& first = resolved.front();
      require(
          draws_together(made, first), ErrorKind::invalid_input,
          "drawn at {}x{} with {} steps, it cannot be drawn together with one at {}x{} with {} steps, or with other "
          "sigmas",
          made.drawn_width, made.drawn_height, *made.request.num_inference_steps, first.drawn_width, first.drawn_height,
          *first.request.num_inference_steps);
    });
  }
  const std::vector<Progress> silent(progress.empty() ? requests.size() : 0);
  const std::span<const Progress> followed = progress.empty() ? std::span(silent) : progress;
  std::vector<Generation> result;
  try {
    if (impl.processes != nullptr) return impl.draw(*impl.processes, resolved, followed);
    run_thread_ranks(static_cast<int>(impl.options.parallelism.ranks()),
                     [&](Communicator& host) {
                       std::vector<Generation> made = impl.draw(host, resolved, followed);
                       if (host.rank() == 0) result = std::move(made);
                     },
                     {impl.options.comm_timeout_s});
  } catch (...) {
    impl.disconnect();
    throw;
  }
  return result;
}

}  // namespace nostos
