// Implements the calls of cuDNN through the graphs of its C++ front end.
#include "ops/cuda/cudnn.h"

#include <cudnn_frontend.h>

#include <cstdio>
#include <future>
#include <limits>
#include <map>
#include <string>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/lru_cache.h"
#include "device/cuda/check.h"
#include "device/workspace.h"

namespace nostos::cuda {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using fe::graph::Tensor_attributes;
using Pointers = std::unordered_map<int64_t, void*>;

/// What a graph's tensors are called.
enum Id : int64_t { kX = 1, kFilter, kBias, kY, kOldY, kQueries, kKeys, kValues, kOut, kLogSumExp };

std::string describe(const FusedAttention& s) {
  return fmt::format("{}attention of {} heads ({} of keys), {} queries, {} keys, width {}", s.causal ? "causal " : "",
                     s.heads, s.kv_heads, s.queries, s.keys, s.head_dim);
}

std::string describe(const FusedConvolution& s) {
  return fmt::format("a convolution of {}x{} pixels, {} to {} channels, kernel {}", s.height, s.width, s.in, s.out,
                     s.kernel);
}

template <class Shape>
void check_cudnn(fe::error_t status, const Shape& shape) {
  if (!status.is_bad()) return;
  check_not_lost("cuDNN failed");
  fail(ErrorKind::internal, "cuDNN cannot run {}: {}", describe(shape), status.get_message());
}

fe::DataType_t data_type(DType dtype) {
  return dtype == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::FLOAT;
}

/// \return a graph on bf16 tensors that computes in float32.
std::shared_ptr<Graph> make_graph() {
  auto graph = std::make_shared<Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

/// Channels-last extents of an image or filter: the library names them [n, channels, height, width].
Tensor_attributes channels_last(Id id, DType dtype, int64_t n, int64_t height, int64_t width, int64_t channels) {
  return Tensor_attributes()
      .set_uid(id)
      .set_data_type(data_type(dtype))
      .set_dim({n, channels, height, width})
      .set_stride({height * width * channels, 1, width * channels, channels});
}

std::shared_ptr<Graph> graph_of(const FusedAttention& s) {
  const auto graph = make_graph();
  const auto heads = [&](Id id, int64_t count, int64_t tokens) {
    return graph->tensor(Tensor_attributes()
                             .set_uid(id)
                             .set_dim({1, count, tokens, s.head_dim})
                             .set_stride({count * tokens * s.head_dim, tokens * s.head_dim, s.head_dim, 1}));
  };
  auto options = fe::graph::SDPA_attributes().set_generate_stats(s.log_sum_exp).set_attn_scale(s.scale);
  if (s.causal) options.set_causal_mask(true);
  auto [out, log_sum_exp] = graph->sdpa(heads(kQueries, s.heads, s.queries), heads(kKeys, s.kv_heads, s.keys),
                                        heads(kValues, s.kv_heads, s.keys), options);
  out->set_output(true)
      .set_uid(kOut)
      .set_dim({1, s.heads, s.queries, s.head_dim})
      .set_stride({s.queries * s.heads * s.head_dim, s.head_dim, s.heads * s.head_dim, 1});
  if (s.log_sum_exp) log_sum_exp->set_output(true).set_uid(kLogSumExp).set_data_type(fe::DataType_t::FLOAT);
  return graph;
}

std::shared_ptr<Graph> graph_of(const FusedConvolution& s) {
  const auto graph = make_graph();
  const int64_t out_height = (s.height + s.top + s.bottom - s.kernel) / s.stride + 1;
  const int64_t out_width = (s.width + s.left + s.right - s.kernel) / s.stride + 1;
  const auto add = [&](std::shared_ptr<Tensor_attributes> to, Tensor_attributes term) {
    to->set_data_type(fe::DataType_t::FLOAT);
    return graph->pointwise(to, graph->tensor(term),
                            fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD));
  };
  auto y = graph->conv_fprop(graph->tensor(channels_last(kX, DType::bf16, 1, s.height, s.width, s.in)),
                             graph->tensor(channels_last(kFilter, DType::bf16, s.out, s.kernel, s.kernel, s.in)),
                             fe::graph::Conv_fprop_attributes()
                                 .set_pre_padding({s.top, s.left})
                                 .set_post_padding({s.bottom, s.right})
                                 .set_stride({s.stride, s.stride})
                                 .set_dilation({1, 1}));
  y = add(y, channels_last(kBias, DType::f32, 1, 1, 1, s.out));
  const Tensor_attributes result = channels_last(kY, s.y, 1, out_height, out_width, s.out);
  if (s.accumulate) y = add(y, Tensor_attributes(result).set_uid(kOldY));
  y->set_output(true)
      .set_uid(kY)
      .set_data_type(data_type(s.y))
      .set_dim(result.get_dim())
      .set_stride(result.get_stride());
  return graph;
}

/// A kernel of the library by its number and settings.
struct Engine {
  int64_t id = 0;
  std::unordered_map<fe::KnobType_t, int64_t> knobs;
};

/// Reads the name of a plan, e.g. "eng4_k24=45".
Engine parse_engine(const std::string& name) {
  Engine engine;
  int used = 0;
  nostos::check(std::sscanf(name.c_str(), "eng%ld%n", &engine.id, &used) == 1,
                "cuDNN's plans are named by engine and knobs");
  for (size_t at = static_cast<size_t>(used); at < name.size(); at += static_cast<size_t>(used)) {
    int type = 0;
    int64_t choice = 0;
    nostos::check(std::sscanf(name.c_str() + at, "_k%d=%ld%n", &type, &choice, &used) == 2,
                  "cuDNN's plans are named by engine and knobs");
    engine.knobs[fe::convert_from_backend_knob_type(static_cast<cudnnBackendKnobType_t>(type))] = choice;
  }
  return engine;
}

/// The shape whose preferred engine serves all that differ from it in the number of heads, queries and keys.
FusedAttention reference_of(FusedAttention shape) {
  constexpr int64_t kReferenceTokens = 1024;
  shape.heads /= shape.kv_heads;
  shape.kv_heads = 1;
  shape.queries = shape.keys = kReferenceTokens;
  return shape;
}

/// The same convolution of a square image inside symmetric padding.
FusedConvolution reference_of(FusedConvolution shape) {
  shape.height = shape.width;
  shape.top = shape.bottom = shape.left;
  return shape;
}

/// The library's handle. A plan runs on the one that it was built with, of which each thread that builds has its own.
class Handle {
 public:
  /// \throws Error device if the library cannot be started, out_of_memory
  explicit Handle(Context& ctx) {
    ctx.bind_thread();
    const cudnnStatus_t status = cudnnCreate(&handle_);
    const bool lacks_memory = status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
                              status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
    require(status == CUDNN_STATUS_SUCCESS, lacks_memory ? ErrorKind::out_of_memory : ErrorKind::device,
            "cannot start cuDNN on {}: {}", to_string(ctx.device()), cudnnGetErrorString(status));
  }
  ~Handle() {
    if (handle_ != nullptr) cudnnDestroy(handle_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  /// Has plans run on the context's stream, which another thread may be recording: not to be called by one that
  /// compiles.
  void use_stream_of(Context& ctx) const {
    const cudnnStatus_t status = cudnnSetStream(handle_, ctx.stream().handle());
    require(status == CUDNN_STATUS_SUCCESS, ErrorKind::device, "cuDNN cannot use the stream of {}: {}",
            to_string(ctx.device()), cudnnGetErrorString(status));
  }
  cudnnHandle_t get() const { return handle_; }

 private:
  cudnnHandle_t handle_ = nullptr;
};

/// What was compiled for a shape.
struct Plan {
  std::shared_ptr<const Handle> handle;  ///< outlives the graph
  std::shared_ptr<Graph> graph;
};

/// \return the shape's graph with its operations checked; no engine is chosen yet.
template <class Shape>
std::shared_ptr<Graph> checked_graph(const Handle& handle, const Shape& shape) {
  const std::shared_ptr<Graph> graph = graph_of(shape);
  check_cudnn(graph->validate(), shape);
  check_cudnn(graph->build_operation_graph(handle.get()), shape);
  return graph;
}

/// \return the engine that the library prefers for `shape`.
template <class Shape>
Engine preferred_engine(const Handle& handle, const Shape& shape) {
  const std::shared_ptr<Graph> graph = checked_graph(handle, shape);
  check_cudnn(graph->create_execution_plans({fe::HeurMode_t::A}), shape);
  std::string name;
  check_cudnn(graph->get_plan_name_at_index(0, name), shape);
  return parse_engine(name);
}

template <class Shape>
Plan compile(std::shared_ptr<const Handle> handle, const Shape& shape) {
  const Engine engine = preferred_engine(*handle, reference_of(shape));
  const std::shared_ptr<Graph> graph = checked_graph(*handle, shape);
  check_cudnn(graph->create_execution_plan(engine.id, engine.knobs), shape);
  check_cudnn(graph->check_support(), shape);
  check_cudnn(graph->build_plans(), shape);
  return {std::move(handle), graph};
}

/// Compiles convolutions one at a time, on any thread. A handle takes memory of the GPU: all of them share this one, so
/// that nothing may compile while one of them is enqueued.
class Compiler {
 public:
  explicit Compiler(Context& ctx) : ctx_(ctx) {}

  Plan compile(const FusedConvolution& shape) {
    ctx_.bind_thread();
    if (!handle_) handle_ = std::make_shared<Handle>(ctx_);
    return cuda::compile(handle_, shape);
  }
  /// Makes what was compiled ready to run. Not while it compiles.
  void finish() const {
    if (handle_) handle_->use_stream_of(ctx_);
  }

 private:
  Context& ctx_;
  std::shared_ptr<const Handle> handle_;
};

template <class Shape>
using Plans = LruCache<Shape, std::shared_ptr<const Plan>>;

}  // namespace

struct Cudnn::State : std::enable_shared_from_this<State> {
  State(Context& context, size_t most_plans)
      : ctx(context),
        handle(std::make_shared<Handle>(context)),
        workspace(context),
        single_query(context),
        kept_plans(most_plans) {
    handle->use_stream_of(ctx);
  }

  template <class Shape>
  std::shared_ptr<const Plan> plan_of(Plans<Shape>& plans, const Shape& shape) {
    if (const auto* known = plans.find(shape)) return *known;
    nostos::check(!ctx.is_recording(), "cuDNN compiles for a shape in a run before its recording");
    return keep(plans, shape, compile<Shape>(handle, shape));
  }

  void trim() {
    attentions.trim(kept_plans);
    convolutions.trim(2 * kept_plans);
  }

  /// Keeps a plan. Others may go when the work under way is done: a drawing, and its recording, find all that they use.
  template <class Shape>
  std::shared_ptr<const Plan> keep(Plans<Shape>& plans, const Shape& shape, Plan plan) {
    ctx.defer([state = weak_from_this()] {
      if (const auto self = state.lock()) self->trim();
    });
    return plans.insert(shape, std::make_shared<const Plan>(std::move(plan)));
  }

  template <class Shape>
  void execute(Plans<Shape>& plans, const Shape& shape, Pointers pointers) {
    const std::shared_ptr<const Plan> plan = plan_of(plans, shape);
    ctx.keep(plan);
    int64_t bytes = 0;
    check_cudnn(plan->graph->get_workspace_size(bytes), shape);
    std::byte* scratch = workspace.at_least(static_cast<size_t>(bytes));
    check_cudnn(plan->graph->execute(plan->handle->get(), pointers, scratch), shape);
  }

  void run(const FusedAttention& shape, const void* q, const void* k, const void* v, void* out, void* log_sum_exp) {
    Pointers pointers{
        {kQueries, const_cast<void*>(q)}, {kKeys, const_cast<void*>(k)}, {kValues, const_cast<void*>(v)}, {kOut, out}};
    if (shape.log_sum_exp) pointers[kLogSumExp] = log_sum_exp;
    execute(attentions, shape, std::move(pointers));
  }

  /// A single query has other engines, which sum in another order: it is attended for beside a query of zeros.
  void run_single_query(FusedAttention shape, const void* q, const void* k, const void* v, void* out,
                        void* log_sum_exp) {
    shape.queries = 2;
    shape.causal = false;  // a single causal query has a single key
    const size_t row = static_cast<size_t>(shape.head_dim) * size_bytes(DType::bf16);
    const auto heads = static_cast<size_t>(shape.heads);
    std::byte* const pair = single_query.at_least(4 * heads * row + 2 * heads * sizeof(float));
    std::byte* const pair_out = pair + 2 * heads * row;
    std::byte* const pair_log_sum_exp = pair_out + 2 * heads * row;
    cudaStream_t stream = ctx.stream().handle();
    check_cuda(cudaMemsetAsync(pair, 0, 2 * heads * row, stream), "cannot clear a query");
    check_cuda(cudaMemcpy2DAsync(pair, 2 * row, q, row, row, heads, cudaMemcpyDefault, stream), "cannot copy a query");
    run(shape, pair, k, v, pair_out, pair_log_sum_exp);
    check_cuda(cudaMemcpyAsync(out, pair_out, heads * row, cudaMemcpyDefault, stream), "cannot copy a query's result");
    if (shape.log_sum_exp)
      check_cuda(cudaMemcpy2DAsync(log_sum_exp, sizeof(float), pair_log_sum_exp, 2 * sizeof(float), sizeof(float),
                                   heads, cudaMemcpyDefault, stream),
                 "cannot copy a query's log-sum-exp");
  }

  Context& ctx;
  std::shared_ptr<const Handle> handle;
  Workspace workspace, single_query;
  const size_t kept_plans;
  Plans<FusedAttention> attentions{std::numeric_limits<size_t>::max()};
  Plans<FusedConvolution> convolutions{std::numeric_limits<size_t>::max()};
  /// Plans that are compiled ahead, and what compiles them.
  std::map<FusedConvolution, std::future<Plan>> ahead;
  std::vector<std::shared_ptr<Compiler>> idle, compiling;
};

Cudnn::Cudnn(Context& ctx, size_t kept_plans) : state_(std::make_shared<State>(ctx, kept_plans)) {}

Cudnn::~Cudnn() = default;

void Cudnn::run(const FusedAttention& shape, const void* q, const void* k, const void* v, void* out,
                void* log_sum_exp) {
  if (shape.queries == 1) return state_->run_single_query(shape, q, k, v, out, log_sum_exp);
  state_->run(shape, q, k, v, out, log_sum_exp);
}

void Cudnn::run(const FusedConvolution& shape, const void* x, const void* filter, const void* bias, void* y) {
  Pointers pointers{
      {kX, const_cast<void*>(x)}, {kFilter, const_cast<void*>(filter)}, {kBias, const_cast<void*>(bias)}, {kY, y}};
  if (shape.accumulate) pointers[kOldY] = y;
  state_->execute(state_->convolutions, shape, std::move(pointers));
}

void Cudnn::plan(const FusedConvolution& shape) {
  if (state_->convolutions.find(shape) != nullptr || state_->ahead.contains(shape)) return;
  auto& idle = state_->idle;
  auto& compiling = state_->compiling;
  if (idle.empty()) idle.push_back(std::make_shared<Compiler>(state_->ctx));
  compiling.push_back(std::move(idle.back()));
  idle.pop_back();
  try {
    state_->ahead.emplace(shape, std::async(std::launch::async,
                                            [compiler = compiling.back(), shape] { return compiler->compile(shape); }));
  } catch (const std::system_error&) {
    // No thread is to be had: the first run compiles.
  }
}

void Cudnn::finish_plans() {
  for (auto& [shape, plan] : state_->ahead) {
    try {
      state_->keep(state_->convolutions, shape, plan.get());
    } catch (const std::exception& error) {
      // Memory that was short for a moment, say: the first run compiles again, and tells what is wrong then.
      log_debug("not compiled ahead: {}", error.what());
    }
  }
  state_->ahead.clear();
  for (const auto& compiler : state_->compiling) compiler->finish();
  state_->idle.insert(state_->idle.end(), state_->compiling.begin(), state_->compiling.end());
  state_->compiling.clear();
}

}  // namespace nostos::cuda
