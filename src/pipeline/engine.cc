// Implements the engine: the model, and the ranks of this process that draw with it.
#include "pipeline/engine.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "families/registry.h"
#include "io/folder_cache.h"
#include "ops/linear.h"
#include "parallel/nccl_communicator.h"
#include "parallel/thread_communicator.h"
#include "pipeline/batch.h"
#include "pipeline/draw.h"
#include "pipeline/model_parts.h"
#include "pipeline/rank.h"

namespace nostos {
namespace {

void require_int8(Context& ctx, const char* flag) {
  require(ops::capabilities(ctx.device()).int8_products, ErrorKind::device,
          "{} int8 wants a GPU or a CPU with AVX-512 VNNI, and {} is neither: leave it out", flag,
          to_string(ctx.device()));
}

DType choose_dtype(Context& ctx, const EngineOptions& options) {
  const Precision precision = options.precision;
  for (const Precision own : {options.text_precision, options.attention_precision})
    require(own == Precision::automatic || own == Precision::int8, ErrorKind::invalid_input,
            "the precision of the text encoder and that of attention are automatic or int8");
  log_debug("{}: {}", to_string(ctx.device()), to_string(ops::capabilities(ctx.device())));
  if (precision == Precision::f32) return DType::f32;
  const bool has_bf16 = ops::has_bf16_products(ctx);
  require(precision != Precision::bf16 || has_bf16, ErrorKind::device,
          "--precision bf16 wants a CPU with AVX-512 BF16; this one has none: use f32 or auto");
  if (precision == Precision::int8) require_int8(ctx, "--precision");
  if (options.text_precision == Precision::int8) require_int8(ctx, "--text-precision");
  return has_bf16 ? DType::bf16 : DType::f32;
}

FamilyOptions family_options(const EngineOptions& options, DType dtype) {
  return {.files = options.model,
          .dtype = dtype,
          .synthetic = options.synthetic,
          .synthetic_format = options.synthetic_format,
          .synthetic_hostile = options.synthetic_hostile,
          .variant = options.variant,
          .rounds_products = options.precision == Precision::int8,
          .rounds_text = options.text_precision == Precision::int8,
          .rounds_scores = options.attention_precision == Precision::int8,
          .kept_products = options.kept_products,
          .input_watch = options.input_watch};
}

/// A device with the model on it.
struct LoadedModel {
  /// \param sharers ranks that draw with it.
  LoadedModel(const EngineOptions& options, Device device, int threads, int64_t sharers)
      : ctx(device, threads, FolderCache::in(options.cache_folder)),
        dtype(choose_dtype(ctx, options)),
        parts(ctx, family_options(options, dtype), resolve_memory(options.memory, device, sharers)) {}

  Context ctx;
  DType dtype;
  ModelParts parts;
};

}  // namespace

/// The ranks of this process have a *place* each: that of their thread, and the only one where ranks are processes.
struct Engine::Impl {
  Impl(const EngineOptions& given, Communicator* given_processes);
  ~Impl();

  /// One rank's part. \return as nostos::draw()
  std::vector<Generation> draw(Communicator& host, std::span<const ResolvedRequest> requests,
                               std::span<const Progress> progress);
  /// After a drawing that failed, maybe on some ranks alone, and that no rank works at any more: the next one connects
  /// all GPUs anew.
  void disconnect() noexcept;

  Rank& rank_of(const Communicator& host) {
    return *ranks[processes == nullptr ? static_cast<size_t>(host.rank()) : 0];
  }
  /// \return the communicator of the rank whose hosts meet on `host`; connects its GPU with those of the others.
  Communicator& world_of(Communicator& host);

  EngineOptions options;
  Communicator* processes;
  KeptCaptions captions;                             // rank 0's
  std::vector<std::unique_ptr<LoadedModel>> models;  // one, or one a place
  std::shared_ptr<AdapterFiles> adapter_files;       // of all models
  std::vector<std::unique_ptr<Rank>> ranks;          // one a place
  bool has_gpu_each;                                 // whether ranks are connected by their GPUs
};

Engine::Impl::Impl(const EngineOptions& given, Communicator* given_processes)
    : options(given), processes(given_processes), captions(given.kept_caption_bytes) {
  const auto places = static_cast<size_t>(processes == nullptr ? options.parallelism.ranks() : 1);
  models.resize(options.device_per_rank ? places : 1);
  ranks.resize(places);
  has_gpu_each = options.device_per_rank && options.device.kind == DeviceKind::cuda;
  const int all_threads = Context({}, options.threads).threads();
  const auto share_of_threads = [&](size_t place, size_t sharers) {
    const std::vector<parallel::Range> shares = parallel::split(all_threads, static_cast<int64_t>(sharers));
    return static_cast<int>(std::max<int64_t>(shares[place].count, 1));
  };
  const auto make_rank = [&](size_t place, std::unique_ptr<Context> context) {
    LoadedModel& model = *models[models.size() == 1 ? 0 : place];
    const RankProcess process{model.ctx, model.parts, options.kept_caption_bytes > 0 ? &captions : nullptr};
    ranks[place] = std::make_unique<Rank>(process, std::move(context), place == 0 || models.size() > 1);
  };
  const auto set_up = [&](Communicator& host) {
    const size_t place = processes == nullptr ? static_cast<size_t>(host.rank()) : 0;
    Device device = options.device;
    if (device.kind == DeviceKind::cuda) device.index += static_cast<int>(place);
    models[place] = std::make_unique<LoadedModel>(options, device, share_of_threads(place, models.size()),
                                                  static_cast<int64_t>(models.size() == 1 ? places : 1));
    LoadedModel& model = *models[place];
    int64_t ranks_in_need = model.parts.wants_one_at_a_time(model.ctx);
    host.all_reduce_sum(std::span(&ranks_in_need, 1));
    model.parts.set_one_at_a_time(ranks_in_need > 0);
    if (models.size() == places) make_rank(place, nullptr);
    if (has_gpu_each) world_of(host);
    model.parts.load_ahead(model.ctx, host.rank() == 0);
  };
  if (processes != nullptr)
    set_up(*processes);
  else
    run_thread_ranks(static_cast<int>(models.size()), set_up, {options.comm_timeout_s});
  adapter_files = std::make_shared<AdapterFiles>(models.front()->parts.family(), options.file_hashes);
  for (const auto& model : models) model->parts.read_adapters_by(adapter_files);
  for (size_t place = 0; place < places; ++place) {
    if (ranks[place]) continue;
    make_rank(place, std::make_unique<Context>(options.device, share_of_threads(place, places)));
  }
}

Engine::Impl::~Impl() {
  if (!has_gpu_each) return;
  // Recorded steps go before the links they use, and the links together: each waits for the others' part of its end.
  for (const std::unique_ptr<Rank>& rank : ranks) rank->memory.forget();
  try {
    run_thread_ranks(static_cast<int>(ranks.size()),
                     [this](Communicator& host) { ranks[static_cast<size_t>(host.rank())]->gpus.reset(); });
  } catch (const std::exception& error) {
    log_warning("the GPUs were not disconnected in order: {}", error.what());
  }
}

Communicator& Engine::Impl::world_of(Communicator& host) {
  if (!has_gpu_each) return host;
  Rank& rank = rank_of(host);
  if (rank.gpus)
    rank.gpus->meet_on(host);
  else
    rank.gpus = std::make_unique<NcclCommunicator>(host, rank.ctx.device(),
                                                   CommunicatorOptions{options.comm_timeout_s, options.peer_memory});
  return *rank.gpus;
}

std::vector<Generation> Engine::Impl::draw(Communicator& host, std::span<const ResolvedRequest> requests,
                                           std::span<const Progress> progress) {
  return nostos::draw(rank_of(host), world_of(host), options.parallelism, requests, progress);
}

void Engine::Impl::disconnect() noexcept {
  for (const std::unique_ptr<Rank>& rank : ranks) {
    if (!rank->gpus) continue;
    rank->memory.forget();
    rank->gpus->leave();
  }
  for (const std::unique_ptr<Rank>& rank : ranks) rank->gpus.reset();
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

const ModelLimits& Engine::limits() const { return impl_->models.front()->parts.shape().limits; }

const char* Engine::precision_name() const {
  if (impl_->options.precision == Precision::int8) return "int8";
  return impl_->models.front()->dtype == DType::bf16 ? "bf16" : "f32";
}

double Engine::measure_matmul_gflops(int64_t rows) {
  LoadedModel& model = *impl_->models.front();
  const auto [in, out] = model.parts.family().largest_product();
  const double of_one = ops::measure_linear_gflops(model.ctx, model.dtype, rows, in, out);
  return of_one * static_cast<double>(impl_->models.size());
}

std::shared_ptr<AdapterFiles> Engine::adapter_files() const { return impl_->adapter_files; }

int64_t Engine::pictures_at_once(const GenerationRequest& request) const {
  constexpr int64_t kUsualPrompt = 64;  // tokens
  const EngineOptions& options = impl_->options;
  const ModelShape& model = impl_->models.front()->parts.shape();
  const ResolvedRequest resolved = resolve(request, limits());
  const int64_t side = model.token_side();
  int64_t tokens = resolved.drawn_height / side * (resolved.drawn_width / side);
  tokens +=
      impl_->models.front()->parts.family().embedding_shape({kUsualPrompt, *resolved.request.max_sequence_length})[0];
  for (const ImageSize& size : resolved.reference_sizes) tokens += size.height / side * (size.width / side);
  const int64_t ranks = options.parallelism.ulysses * options.parallelism.ring;
  const int64_t passes = resolved.is_guided && options.parallelism.cfg == 1 ? 2 : 1;
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
  // Every process must find the same, and rank 0 alone has the pixels.
  const auto has_hash = [](const ReferenceImage& image) { return !image.sha256.empty(); };
  const auto is_comparable = [&](const GenerationRequest& one) {
    return std::ranges::all_of(one.images, has_hash) && (!one.mask || has_hash(one.mask->image)) &&
           (!one.control || !one.control->image || has_hash(*one.control->image));
  };
  require(impl.processes == nullptr || requests.size() == 1 || std::ranges::all_of(requests, is_comparable),
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
