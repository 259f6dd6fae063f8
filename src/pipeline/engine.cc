// Implements the engine: the model, and the ranks of this process that draw with it.
#include "pipeline/engine.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "ops/linear.h"
#include "parallel/thread_communicator.h"
#include "pipeline/model_parts.h"
#include "pipeline/worker.h"

namespace nostos {
namespace {

DType choose_dtype(Context& ctx, Precision precision) {
  if (precision == Precision::f32) return DType::f32;
  const bool has_bf16 = ops::has_bf16_products(ctx);
  require(precision != Precision::bf16 || has_bf16, ErrorKind::device,
          "--precision bf16 wants a CPU with AVX-512 BF16; this one has none: use f32 or auto");
  return has_bf16 ? DType::bf16 : DType::f32;
}

}  // namespace

struct Engine::Impl {
  explicit Impl(const EngineOptions& given, Communicator* given_processes)
      : options(given),
        processes(given_processes),
        ctx(given.device, given.threads),
        dtype(choose_dtype(ctx, given.precision)),
        parts(ctx, given.model, given.synthetic, dtype) {
    if (processes != nullptr || options.parallelism.ranks() == 1) return;
    for (const parallel::Range& threads : parallel::split(ctx.threads(), options.parallelism.ranks()))
      thread_contexts.push_back(
          std::make_unique<Context>(options.device, static_cast<int>(std::max<int64_t>(threads.count, 1))));
  }

  /// \return the context of thread rank `rank`.
  Context& context_of(int rank) { return thread_contexts.empty() ? ctx : *thread_contexts[static_cast<size_t>(rank)]; }

  EngineOptions options;
  Communicator* processes;
  Context ctx;
  DType dtype;
  ModelParts parts;
  std::vector<std::unique_ptr<Context>> thread_contexts;  // of several thread ranks, which share the process's threads
};

Engine::Engine(const EngineOptions& options, Communicator* processes) {
  require(processes == nullptr || processes->world() == options.parallelism.ranks(), ErrorKind::invalid_input,
          "{} processes were started for {} ranks", processes == nullptr ? 1 : processes->world(),
          options.parallelism.ranks());
  impl_ = std::make_unique<Impl>(options, processes);
  if (options.release_parts) return;
  if (processes == nullptr || processes->rank() == 0) impl_->parts.encoder(impl_->ctx);
  impl_->parts.transformer(impl_->ctx);
  impl_->parts.autoencoder(impl_->ctx);
}

Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;

const ModelLimits& Engine::limits() const { return impl_->parts.limits(); }

const char* Engine::precision_name() const { return impl_->dtype == DType::bf16 ? "bf16" : "f32"; }

double Engine::measure_matmul_gflops(int64_t rows) {
  const zimage::Config& config = impl_->parts.transformer_config();
  return ops::measure_linear_gflops(impl_->ctx, impl_->dtype, rows, config.hidden, 2 * config.ffn());
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
      const ResolvedRequest& made = resolved.emplace_back(resolve(requests[i], impl.parts.limits()));
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
  const WorkerProcess process{impl.ctx, impl.parts, impl.options.release_parts};
  if (impl.processes != nullptr)
    return Worker(impl.ctx, *impl.processes, impl.options.parallelism, process, true).draw(resolved, followed);
  std::vector<Generation> result;
  run_thread_ranks(static_cast<int>(impl.options.parallelism.ranks()),
                   [&](Communicator& world) {
                     const bool leads = world.rank() == 0;
                     Worker worker(impl.context_of(world.rank()), world, impl.options.parallelism, process, leads);
                     std::vector<Generation> made = worker.draw(resolved, followed);
                     if (leads) result = std::move(made);
                   },
                   {impl.options.comm_timeout_s});
  return result;
}

}  // namespace nostos
