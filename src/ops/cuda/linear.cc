// Implements the product with a weight on cuBLASLt; on Hopper gated products, whose weight has gates and what they gate
// side by side, and sums of two products as one kernel.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/lru_cache.h"
#include "device/stream.h"
#include "device/workspace.h"
#include "ops/cuda/blas_lt.h"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/hopper.h"
#include "ops/cuda/linear_trials.h"
#include "ops/cuda/linear_tuning.h"
#include "ops/cuda/plan_store.h"
#include "ops/cuda/portable_int8_linear.h"
#include "ops/cuda/stored_weight.h"
#include "ops/device_op.h"
#include "ops/int8_linear.h"
#include "ops/linear.h"
#include "ops/linear_update.h"
#include "ops/stored_weight.h"

namespace nostos::ops {

using namespace cuda;
namespace {

using Algorithm = cublasLtMatmulAlgo_t;

/// Random operands of one product for as many rows as it is tried with; memory only while it is tried.
class Trials {
 public:
  Trials(Context& ctx, const Product& product, int64_t rows)
      : ctx_(ctx),
        product_(product),
        x_(ctx.device(), product.x, {rows, product.in}),
        weight_(ctx.device(), product.x, {product.out, product.in}),
        bias_(ctx.device(), DType::f32, {product.out}),
        y_(ctx.device(), product.y, {rows, product.out}),
        digests_(ctx.device(), DType::i64, {rows}) {
    fill(x_, 1);
    fill(weight_, 2);
    fill(bias_, 3);
    fill(y_, 4);
  }

  /// \return a digest a row of what `algorithm` gives for the first `rows` rows.
  std::vector<uint64_t> digests(const BlasLt& blas, int64_t rows, const Algorithm& algorithm) {
    fill(y_, 4);
    run(blas, rows, algorithm);
    const View y = y_;
    digest_rows(y.bytes(), rows, static_cast<size_t>(product_.out) * size_bytes(product_.y),
                reinterpret_cast<uint64_t*>(digests_.view().bytes()), ctx_.stream().handle());
    std::vector<uint64_t> found(static_cast<size_t>(rows));
    check_cuda(cudaMemcpyAsync(found.data(), digests_.view().bytes(), found.size() * sizeof(uint64_t),
                               cudaMemcpyDefault, ctx_.stream().handle()),
               "cannot read digests");
    synchronize(ctx_.stream().handle());
    return found;
  }

  /// \return milliseconds of the fastest of a few runs; of the first alone if it takes more than twice `best_ms`.
  float measure(const BlasLt& blas, int64_t rows, const Algorithm& algorithm, float best_ms) {
    float fastest_ms = std::numeric_limits<float>::infinity();
    for (int i = 0; i < 4; ++i) {
      begin_.record(ctx_.stream());
      run(blas, rows, algorithm);
      end_.record(ctx_.stream());
      synchronize(end_.handle());
      fastest_ms = std::min(fastest_ms, Event::elapsed_ms(begin_, end_));
      if (fastest_ms > 2 * best_ms) break;
    }
    return fastest_ms;
  }

 private:
  void fill(Tensor& tensor, uint32_t seed) {
    fill_random(tensor.view().bytes(), tensor.dtype(), static_cast<size_t>(tensor.shape().elements()), seed,
                ctx_.stream().handle());
  }
  void run(const BlasLt& blas, int64_t rows, const Algorithm& algorithm) {
    blas.run(product_, rows, algorithm,
             {x_.view().bytes(), weight_.view().bytes(), bias_.data<float>(), y_.view().bytes()});
  }

  Context& ctx_;
  const Product product_;
  Tensor x_, weight_, bias_, y_, digests_;
  Event begin_{ctx_.device(), true}, end_{ctx_.device(), true};
};

/// The algorithms of products, found out on first use; see linear_tuning.h for how. The weights hold it, so that the
/// ranks that share them share it too.
class ProductPlans {
  static constexpr size_t kKeptPlans = 256;

 public:
  explicit ProductPlans(PlanStore store) : store_(std::move(store)) {}

  Algorithm algorithm(Context& ctx, const Product& product, int64_t rows) {
    const std::lock_guard lock(mutex_);
    const BlasLt& blas = ctx.state<BlasLt>();
    auto found = plans_.find(product);
    if (found == plans_.end()) {
      nostos::check(!ctx.is_recording(), "a product is planned by a run before its recording");
      std::optional<ProductPlan> known = store_.load(product);
      if (!known || !serves_all(blas, product, *known)) known = ProductPlan{survey(ctx, blas, product)};
      found = plans_.emplace(product, Plan{std::move(*known)}).first;
    }
    Plan& plan = found->second;
    if (const size_t* chosen = plan.chosen.find(rows)) return plan.algorithms[*chosen];
    // All of a plan's algorithms give the same bits: in a recording, where nothing can be measured, any will do.
    if (ctx.is_recording()) return plan.algorithms[first_serving(blas, product, rows, plan.algorithms, in_order(plan))];
    auto ranked = plan.ranked.find(row_bucket(rows));
    if (ranked == plan.ranked.end()) {
      ranked = plan.ranked.emplace(row_bucket(rows), rank(ctx, blas, product, row_bucket(rows), plan)).first;
      store_.save(product, plan);
    }
    const size_t fastest = first_serving(blas, product, rows, plan.algorithms, ranked->second);
    plan.chosen.insert(rows, fastest);
    return plan.algorithms[fastest];
  }

 private:
  struct Plan : ProductPlan {
    LruCache<int64_t, size_t> chosen{kKeptPlans};  // by the number of rows
  };

  static bool serves_all(const BlasLt& blas, const Product& product, const ProductPlan& plan) {
    return std::ranges::all_of(kSurveyRows, [&](int64_t rows) {
      return std::ranges::any_of(plan.algorithms, [&](const Algorithm& a) { return blas.supports(product, rows, a); });
    });
  }

  static std::vector<size_t> in_order(const Plan& plan) {
    std::vector<size_t> indices(plan.algorithms.size());
    std::iota(indices.begin(), indices.end(), size_t{0});
    return indices;
  }

  static size_t first_serving(const BlasLt& blas, const Product& product, int64_t rows,
                              const std::vector<Algorithm>& algorithms, const std::vector<size_t>& order) {
    const auto found =
        std::ranges::find_if(order, [&](size_t i) { return blas.supports(product, rows, algorithms[i]); });
    require(found != order.end(), ErrorKind::device, "none of {} algorithms of cuBLASLt serves {} rows of [{}, {}]",
            order.size(), rows, product.out, product.in);
    return *found;
  }

  static std::vector<Algorithm> survey(Context& ctx, const BlasLt& blas, const Product& product) {
    const int64_t most = std::end(kSurveyRows)[-1];
    std::vector<Algorithm> candidates;
    for (auto rows = std::rbegin(kSurveyRows); rows != std::rend(kSurveyRows); ++rows) {
      for (const Algorithm& candidate : blas.candidates(product, *rows)) {
        const auto is_same = [&](const Algorithm& other) { return std::memcmp(&candidate, &other, sizeof other) == 0; };
        if (std::ranges::none_of(candidates, is_same)) candidates.push_back(candidate);
      }
    }
    ctx.count_host_wait("survey of matrix products");
    Trials trials(ctx, product, most);
    std::vector<AlgorithmTrial> results;
    int served = 0;
    for (const Algorithm& candidate : candidates) {
      AlgorithmTrial& result = results.emplace_back();
      for (const int64_t rows : kSurveyRows) {
        const bool serves = blas.supports(product, rows, candidate);
        result.push_back(serves ? trials.digests(blas, rows, candidate) : std::vector<uint64_t>{});
        served += serves;
      }
    }
    std::vector<Algorithm> chosen;
    for (const size_t i : choose_algorithm_group(results)) chosen.push_back(candidates[i]);
    require(!chosen.empty(), ErrorKind::device,
            "none of cuBLASLt's {} algorithms for {} weights [{}, {}] gives rows that do not depend on their number on "
            "{} ({} of {} trials served)",
            candidates.size(), name(product.x), product.out, product.in, to_string(ctx.device()), served,
            candidates.size() * std::size(kSurveyRows));
    return chosen;
  }

  /// \return the indices of the plan's algorithms that serve `rows`, the fastest first, then those of the others.
  static std::vector<size_t> rank(Context& ctx, const BlasLt& blas, const Product& product, int64_t rows,
                                  const Plan& plan) {
    ctx.count_host_wait("timing of matrix products");
    Trials trials(ctx, product, rows);
    constexpr float kNever = std::numeric_limits<float>::infinity();
    std::vector<float> times_ms;
    float best_ms = kNever;
    for (const Algorithm& algorithm : plan.algorithms) {
      const bool serves = blas.supports(product, rows, algorithm);
      times_ms.push_back(serves ? trials.measure(blas, rows, algorithm, best_ms) : kNever);
      best_ms = std::min(best_ms, times_ms.back());
    }
    std::vector<size_t> indices = in_order(plan);
    std::ranges::stable_sort(indices, {}, [&](size_t i) { return times_ms[i]; });
    return indices;
  }

  const PlanStore store_;
  std::mutex mutex_;
  std::map<Product, Plan> plans_;
};

/// \return what an algorithm and the choice of it depend on.
std::string store_key(Device device) {
  const DeviceProperties& gpu = device_properties(device.index);
  return fmt::format("{}, {} multiprocessors, cuBLASLt {}, survey {} of {} with {} bytes", gpu.name,
                     gpu.multiprocessors, cublasLtGetVersion(), kSurveyVersion, BlasLt::kCandidates,
                     BlasLt::kWorkspaceBytes);
}

/// The plans of the products whose weights a context has packed.
struct PackedPlans {
  explicit PackedPlans(Context& ctx)
      : plans(std::make_shared<ProductPlans>(PlanStore(ctx.cache(), store_key(ctx.device())))) {}
  std::shared_ptr<ProductPlans> plans;
};

/// A weight [out, in] as it came.
struct DeviceMatrix final : PackedWeight {
  const std::byte* data = nullptr;  // in the storage or, where the memory is borrowed, elsewhere; null if it is kept as
  std::vector<StoredPiece> pieces;  // these
  std::shared_ptr<ProductPlans> plans;
};

const DeviceMatrix& matrix_of(const Linear& w) { return static_cast<const DeviceMatrix&>(*w.packed); }

/// The numbers of kept weights, for the product that comes next on the context's stream.
struct KeptNumbers : Workspace {
  using Workspace::Workspace;
};

size_t scratch_bytes(const Linear& w) {
  return matrix_of(w).data != nullptr ? 0 : stored_scratch_bytes({w.out, w.in}, w.input);
}

/// \return the numbers [out, in] of each weight: where they lie, or in memory that holds until the next call.
template <class... Weight>
std::array<const std::byte*, sizeof...(Weight)> numbers_of(Context& ctx, const Weight&... weights) {
  std::byte* scratch = ctx.state<KeptNumbers>().at_least((scratch_bytes(weights) + ...));
  const auto place = [&](const Linear& w) -> const std::byte* {
    if (matrix_of(w).data != nullptr) return matrix_of(w).data;
    std::byte* const numbers = std::exchange(scratch, scratch + scratch_bytes(w));
    dequantise_pieces(ctx, matrix_of(w).pieces, View(numbers, w.input, {w.out, w.in}));
    return numbers;
  };
  return {place(weights)...};
}

/// \param storage what keeps the weight's memory, if it is the matrix's own.
Linear matrix(Context& ctx, ConstView weight, Buffer storage) {
  auto packed = std::make_shared<DeviceMatrix>();
  packed->storage = std::move(storage);
  packed->data = weight.bytes();
  packed->plans = ctx.state<PackedPlans>().plans;
  return {weight.shape()[1], weight.shape()[0], weight.dtype(), std::move(packed)};
}

}  // namespace

Linear run(OnCuda<pack_linear>, Context& ctx, ConstView weight) {
  Buffer storage(ctx.device(), weight.size_in_bytes());
  copy_async(storage.data(), weight.bytes(), weight.size_in_bytes(), ctx.stream().handle());
  const ConstView copy(storage.data(), weight.dtype(), weight.shape());
  return matrix(ctx, copy, std::move(storage));
}

Linear run(OnCuda<borrow_linear>, Context& ctx, ConstView weight) { return matrix(ctx, weight, {}); }

Linear run(OnCuda<keep_stored>, Context& ctx, std::vector<StoredPiece> pieces, const Shape& shape, DType input) {
  auto kept = std::make_shared<DeviceMatrix>();
  kept->pieces = std::move(pieces);
  kept->plans = ctx.state<PackedPlans>().plans;
  return {shape[1], shape[0], input, std::move(kept)};
}

void run(OnCuda<linear>, Context& ctx, ConstView x, const Linear& w, View y, bool accumulate) {
  const int64_t rows = x.shape()[0];
  if (rows == 0) return;
  const bool has_bias = static_cast<bool>(w.bias);
  nostos::check(!has_bias || y.dtype() == DType::f32, "a product with a bias is written in f32");
  const Product product{w.in, w.out, w.input, y.dtype(), has_bias, accumulate, false};
  const Algorithm algorithm = matrix_of(w).plans->algorithm(ctx, product, rows);
  const auto [weight] = numbers_of(ctx, w);
  ctx.state<BlasLt>().run(product, rows, algorithm, {x.bytes(), weight, optional_data<float>(w.bias), y.bytes()});
}

void run(OnCuda<interleave_gates>, Context& ctx, ConstView weight, View out) {
  const int64_t in = weight.shape()[1], ffn = weight.shape()[0] / 2;
  const size_t rows_bytes = static_cast<size_t>(kGateRows * in) * size_bytes(weight.dtype());
  for (const int64_t half : {0, 1}) {
    check_cuda(cudaMemcpy2DAsync(out.rows(half * kGateRows, kGateRows).bytes(), 2 * rows_bytes,
                                 weight.rows(half * ffn, ffn).bytes(), rows_bytes, rows_bytes,
                                 static_cast<size_t>(ffn / kGateRows), cudaMemcpyDeviceToDevice, ctx.stream().handle()),
               "cannot interleave weights");
  }
}

namespace {

HopperFactors factors(ConstView x, const Linear& w, const std::byte* numbers) { return {x.bytes(), numbers, w.in}; }

/// \return those of the low-rank term beside `w`.
HopperFactors factors_of_update(ConstView reduced, const Linear& w) {
  const Linear& up = w.update->low_rank.up;
  return factors(reduced, up, matrix_of(up).data);
}

Int8Factors factors(const RoundedRows& x, const Int8Weight& w, const Int8Term& term) {
  Int8Factors made{x.numbers.bytes(), w.numbers.bytes(), x.scales.data<float>(), w.scales.data<float>(),
                   x.numbers.shape()[1]};
  if (term.up != nullptr) made.term = factors(term.reduced, *term.up, matrix_of(*term.up).data);
  return made;
}

}  // namespace

void run(OnCuda<int8_linear>, Context& ctx, const RoundedRows& x, const Int8Weight& w, View y) {
  if (has_hopper_kernels(ctx.device())) return hopper_int8_linear(ctx, factors(x, w, {}), false, y);
  portable_int8_linear(ctx, x.numbers, x.scales, w.numbers, w.scales, y);
}

void run(OnCuda<int8_linear_sum>, Context& ctx, const RoundedRows& x, const Int8Weight& w, const Int8Term& term,
         View y) {
  hopper_int8_linear(ctx, factors(x, w, term), false, y);
}

void run(OnCuda<int8_gated_linear>, Context& ctx, const RoundedRows& x, const Int8Weight& w, const Int8Term& term,
         View out) {
  hopper_int8_linear(ctx, factors(x, w, term), true, out);
}

void run(OnCuda<fused_gated_linear>, Context& ctx, ConstView x, const Linear& w, View out) {
  const auto [weight] = numbers_of(ctx, w);
  hopper_gated_linear(ctx, std::array{factors(x, w, weight)}, out);
}

void run(OnCuda<fused_linear_sum>, Context& ctx, ConstView x_a, const Linear& a, ConstView x_b, const Linear& b,
         View y) {
  const auto [of_a, of_b] = numbers_of(ctx, a, b);
  hopper_linear_sum(ctx, std::array{factors(x_a, a, of_a), factors(x_b, b, of_b)}, y);
}

void run(OnCuda<fused_gated_linear_sum>, Context& ctx, const UpdateInputs& x, const Linear& w, View out) {
  const auto [weight] = numbers_of(ctx, w);
  hopper_gated_linear(ctx, std::array{factors(x.x, w, weight), factors_of_update(x.reduced, w)}, out);
}

void run(OnCuda<fused_updated_linear_sum>, Context& ctx, const UpdateInputs& x_a, const Linear& a,
         const UpdateInputs& x_b, const Linear& b, View y) {
  const auto [of_a, of_b] = numbers_of(ctx, a, b);
  std::vector<HopperFactors> terms{factors(x_a.x, a, of_a), factors(x_b.x, b, of_b)};
  if (a.update) terms.push_back(factors_of_update(x_a.reduced, a));
  if (b.update) terms.push_back(factors_of_update(x_b.reduced, b));
  hopper_linear_sum(ctx, terms, y);
}

}  // namespace nostos::ops
