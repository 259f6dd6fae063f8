// Implements the sampler's updates in float32 without contraction, as the CPU computes them, with float64 sums of
// squares.
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/device_op.h"
#include "ops/elementwise.h"

namespace nostos::ops {

using namespace cuda;
namespace {

constexpr int kCapThreads = 1024;

/// A warp has a token.
__global__ void __launch_bounds__(kBlockThreads)
    guide_kernel(const float* positive, const float* negative, float guidance, int64_t tokens, int channels, float* out,
                 double* token_squares) {
  const int64_t token = (static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x) / 32;
  if (token >= tokens) return;
  double of_positive = 0, of_guided = 0;
  for (int c = static_cast<int>(threadIdx.x) % 32; c < channels; c += 32) {
    const int64_t i = token * channels + c;
    const float p = positive[i];
    const float guided = __fadd_rn(p, __fmul_rn(guidance, __fsub_rn(p, negative[i])));
    of_positive += static_cast<double>(p) * static_cast<double>(p);
    of_guided += static_cast<double>(guided) * static_cast<double>(guided);
    out[i] = guided;
  }
  if (token_squares == nullptr) return;
  of_positive = lane_sum(of_positive, 32);
  of_guided = lane_sum(of_guided, 32);
  if (threadIdx.x % 32 != 0) return;
  token_squares[2 * token] = of_positive;
  token_squares[2 * token + 1] = of_guided;
}

/// Every block adds all tokens' sums in the same order, then scales its part of x.
__global__ void __launch_bounds__(kCapThreads)
    cap_norm_kernel(const double* token_squares, int64_t tokens, double max_norm_ratio, int64_t elements, float* x) {
  __shared__ double partial[2][kCapThreads / 32];
  double of_positive = 0, of_guided = 0;
  for (int64_t t = threadIdx.x; t < tokens; t += kCapThreads) {
    of_positive += token_squares[2 * t];
    of_guided += token_squares[2 * t + 1];
  }
  const double cap = sqrt(block_sum(of_positive, partial[0])) * max_norm_ratio;
  const double norm = sqrt(block_sum(of_guided, partial[1]));
  if (norm <= cap) return;
  const float factor = static_cast<float>(cap / norm);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kCapThreads + threadIdx.x; i < elements;
       i += static_cast<int64_t>(gridDim.x) * kCapThreads)
    x[i] *= factor;
}

__global__ void __launch_bounds__(kBlockThreads)
    euler_step_kernel(const float* model_output, const float* delta, int64_t elements, float* x) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i < elements) x[i] = __fadd_rn(x[i], __fmul_rn(*delta, -model_output[i]));
}

/// \param mask may be null
__global__ void __launch_bounds__(kBlockThreads)
    mix_noise_kernel(const float* clean, const float* noise, const float* level, const float* mask, int64_t elements,
                     float* x) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= elements) return;
  const float of_noise = *level, of_image = __fsub_rn(1.f, of_noise);
  const float known = __fadd_rn(__fmul_rn(of_noise, noise[i]), __fmul_rn(of_image, clean[i]));
  x[i] = mask == nullptr ? known : __fadd_rn(__fmul_rn(__fsub_rn(1.f, mask[i]), known), __fmul_rn(mask[i], x[i]));
}

}  // namespace

void run(OnCuda<guide>, Context& ctx, ConstView positive, ConstView negative, float guidance, View out,
         View token_squares) {
  if (out.elements() == 0) return;
  const int64_t tokens = out.shape()[0];
  guide_kernel<<<blocks_for(tokens * 32), kBlockThreads, 0, ctx.stream().handle()>>>(
      positive.data<float>(), negative.data<float>(), guidance, tokens, static_cast<int>(out.shape()[1]),
      out.data<float>(), token_squares ? token_squares.data<double>() : nullptr);
  check_launch("guide");
}

void run(OnCuda<cap_norm>, Context& ctx, ConstView token_squares, float max_norm_ratio, View x) {
  if (x.elements() == 0) return;
  const int64_t wanted = (x.elements() + kCapThreads - 1) / kCapThreads;
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(wanted, multiprocessors(ctx)));
  cap_norm_kernel<<<blocks, kCapThreads, 0, ctx.stream().handle()>>>(
      token_squares.data<double>(), token_squares.shape()[0], static_cast<double>(max_norm_ratio), x.elements(),
      x.data<float>());
  check_launch("cap_norm");
}

void run(OnCuda<euler_step>, Context& ctx, ConstView model_output, ConstView delta, View x) {
  if (x.elements() == 0) return;
  euler_step_kernel<<<blocks_for(x.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(
      model_output.data<float>(), delta.data<float>(), x.elements(), x.data<float>());
  check_launch("euler_step");
}

void run(OnCuda<mix_noise>, Context& ctx, ConstView clean, ConstView noise, ConstView level, ConstView mask, View x) {
  if (x.elements() == 0) return;
  mix_noise_kernel<<<blocks_for(x.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(
      clean.data<float>(), noise.data<float>(), level.data<float>(), mask ? mask.data<float>() : nullptr, x.elements(),
      x.data<float>());
  check_launch("mix_noise");
}

}  // namespace nostos::ops
