// Implements the rounding of heads of 128 to 8 bits, where they have been normalised and rotated or on the way.
#include "ops/cuda/rounded_heads.h"

#include "ops/cuda/hopper.h"
#include "ops/cuda/rotated_heads.cuh"
#include "ops/device_op.h"

namespace nostos::ops {

using namespace cuda;
namespace {

// 16 neighbouring threads have a head, kVector elements each.
constexpr int kLanes = static_cast<int>(kHopperHeadDim) / kVector, kSlots = kBlockThreads / kLanes;
static_assert(kSlots == kCentreSums);

/// What comes before the rounding.
enum class Before { nothing, interleaved, half_split };

/// Heads of one kind, each with its tokens' rows some elements apart, and where their numbers go, bytes apart.
struct Rows {
  const void* from = nullptr;
  int64_t head_stride = 0, token_stride = 0;
  uint8_t* numbers = nullptr;
  int64_t numbers_head_stride = 0, numbers_token_stride = 0;
  float* scales = nullptr;
  int64_t scales_stride = 0;
  const float* centres = nullptr;  ///< or null
  int heads = 0;
};

/// x <- what ops::split_heads_rope() makes of it, rounded to bf16.
template <Before kBefore, class Rotation>
__device__ inline void prepare(float (&x)[kVector], const Rotation& rotation, const Rotary& rotary, const float* norm) {
  if constexpr (kBefore != Before::nothing) {
    if (norm != nullptr) rotation.norm(x, norm, rotary.eps, true);
    rotation.rotate(x, true);
#pragma unroll
    for (int i = 0; i < kVector; i += 2) {
      const uint32_t pair = pack_bf16(x[i], x[i + 1]);
      x[i] = __uint_as_float(pair << 16);
      x[i + 1] = __uint_as_float(pair & 0xffff0000u);
    }
  }
}

/// Keys whose centres are made: `count` of each head, `step` apart.
struct Centred {
  Rows keys{};
  int count = 0, step = 0;
  float* centres = nullptr;
};

/// Makes the centre of a head: slot s has every 16th of the keys that count.
template <class In, Before kBefore>
__device__ inline void make_centre(const Centred& of, const Rotary& rotary, int head_index) {
  const auto& [keys, count, step, centres] = of;
  __shared__ float sums[kSlots][kHopperHeadDim];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, slot = static_cast<int>(threadIdx.x) / kLanes;
  const In* head = static_cast<const In*>(keys.from) + head_index * keys.head_stride + lane * kVector;
  float sum[kVector] = {};
  for (int base = 0; base < count; base += kSlots) {  // for the whole block: warps stay together for the shuffles
    const bool counts = base + slot < count;
    const int64_t token = counts ? int64_t{base + slot} * step : 0;
    const HeadRotation<kBefore != Before::half_split> rotation(rotary, token, kLanes, lane);
    float x[kVector];
    load<kVector>(head + token * keys.token_stride, x);
    prepare<kBefore>(x, rotation, rotary, rotary.k_norm);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum[i] = counts ? sum[i] + x[i] : sum[i];
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) sums[slot][lane * kVector + i] = sum[i];
  __syncthreads();
  const int at = static_cast<int>(threadIdx.x);
  if (at >= kHopperHeadDim) return;
  float all = 0;
  for (int i = 0; i < kSlots; ++i) all += sums[i][at];
  centres[head_index * kHopperHeadDim + at] = __fdiv_rn(all, static_cast<float>(count));
}

/// x <- x less the centre of `head`, if there is one. \return the largest magnitude
__device__ inline float centre(float (&x)[kVector], const Rows& rows, int head, int lane) {
  if (rows.centres != nullptr) {
    float less[kVector];
    load_cached(rows.centres + head * kHopperHeadDim, lane, less);
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[i] -= less[i];
  }
  float largest = 0;
#pragma unroll
  for (const float value : x) largest = fmaxf(largest, fabsf(value));
  return largest;
}

/// \return the largest of `lanes` neighbouring threads.
__device__ inline float largest_of(float value, int lanes) {
  for (int offset = 1; offset < lanes; offset *= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

__device__ inline void write_numbers(const float (&x)[kVector], float largest, const Rows& rows, int head,
                                     int64_t token, int lane) {
  const float inverse = largest > 0 ? __fdiv_rn(127.f, largest) : 0.f;
  uint32_t words[2] = {};
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    words[i / 4] |= (static_cast<uint32_t>(__float2int_rn(x[i] * inverse)) & 255u) << (i % 4 * 8);
  uint8_t* to = rows.numbers + head * rows.numbers_head_stride + token * rows.numbers_token_stride + lane * kVector;
  *reinterpret_cast<uint2*>(to) = {words[0], words[1]};
}

/// The first blocks have a head of keys each, whose centre they make. Each of the others has a token, whose rows have a
/// scale each; those of kAhead heads are on their way at once. A head is read before it is written, by the same
/// threads.
template <class In, Before kBefore, int kAhead>
__global__ void __launch_bounds__(kBlockThreads)
    round_rows_kernel(const __grid_constant__ Centred centred, const __grid_constant__ Rows rows,
                      const __grid_constant__ Rotary rotary) {
  if (static_cast<int>(blockIdx.x) < centred.keys.heads)
    return make_centre<In, kBefore>(centred, rotary, static_cast<int>(blockIdx.x));
  const int64_t token = static_cast<int>(blockIdx.x) - centred.keys.heads;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, slot = static_cast<int>(threadIdx.x) / kLanes;
  const HeadRotation<kBefore != Before::half_split> rotation(rotary, token, kLanes, lane);
  const In* from = static_cast<const In*>(rows.from) + token * rows.token_stride + lane * kVector;
  for (int base = 0; base < rows.heads; base += kSlots * kAhead) {
    Raw<In, kVector> raw[kAhead];
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      const int head = base + ahead * kSlots + slot;
      raw[ahead].clear();
      if (head < rows.heads) raw[ahead].load(from + head * rows.head_stride);
    }
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      if (base + ahead * kSlots >= rows.heads) break;  // for the whole block: warps stay together for the shuffles
      const int head = base + ahead * kSlots + slot;
      float x[kVector];
      raw[ahead].unpack(x);
      prepare<kBefore>(x, rotation, rotary, rotary.q_norm);
      const float largest = largest_of(centre(x, rows, min(head, rows.heads - 1), lane), kLanes);
      if (head >= rows.heads) continue;
      write_numbers(x, largest, rows, head, token, lane);
      if (lane == 0) rows.scales[head * rows.scales_stride + token] = __fdiv_rn(largest, 127.f);
    }
  }
}

/// Block (h, b) has rows [kKeysAScale * b, + kKeysAScale) of head h, which share a scale: slot s every 16th of them.
/// Heads come first: those of a token are neighbours in memory, and so are read at about the same time.
template <class In, Before kBefore>
__global__ void __launch_bounds__(kBlockThreads)
    round_blocks_kernel(const __grid_constant__ Rows rows, const __grid_constant__ Rotary rotary, int64_t tokens) {
  constexpr int kOwn = static_cast<int>(kKeysAScale) / kSlots, kWarps = kBlockThreads / 32;
  static_assert(kOwn * kSlots == kKeysAScale);
  __shared__ float largest_of_warp[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, slot = static_cast<int>(threadIdx.x) / kLanes;
  const int head = static_cast<int>(blockIdx.x);
  const int64_t first = blockIdx.y * kKeysAScale + slot;
  const In* from = static_cast<const In*>(rows.from) + head * rows.head_stride + lane * kVector;
  float x[kOwn][kVector], largest = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int64_t token = min(first + i * kSlots, tokens - 1);  // the last one twice changes no maximum
    const HeadRotation<kBefore != Before::half_split> rotation(rotary, token, kLanes, lane);
    load<kVector>(from + token * rows.token_stride, x[i]);
    prepare<kBefore>(x[i], rotation, rotary, rotary.k_norm);
    largest = fmaxf(largest, centre(x[i], rows, head, lane));
  }
  largest = largest_of(largest, 32);
  if (threadIdx.x % 32 == 0) largest_of_warp[threadIdx.x / 32] = largest;
  __syncthreads();  // all have read their rows, too
  for (int warp = 0; warp < kWarps; ++warp) largest = fmaxf(largest, largest_of_warp[warp]);
#pragma unroll
  for (int i = 0; i < kOwn; ++i)
    if (first + i * kSlots < tokens) write_numbers(x[i], largest, rows, head, first + i * kSlots, lane);
  if (threadIdx.x == 0) rows.scales[head * rows.scales_stride + blockIdx.y] = __fdiv_rn(largest, 127.f);
}

Centred centred(const Rows& keys, int64_t tokens, float* centres) {
  const int64_t step = divide_up(tokens, kMostCentreKeys);
  return {keys, static_cast<int>(divide_up(tokens, step)), static_cast<int>(step), centres};
}

/// Makes centres and rounds rows, of `tokens` tokens, at once: the few blocks of centres leave most of the GPU free.
template <class In, Before kBefore>
void launch_rows(Context& ctx, const Centred& centred, const Rows& rows, const Rotary& rotary, int64_t tokens) {
  round_rows_kernel<In, kBefore, 2>
      <<<static_cast<unsigned>(centred.keys.heads + tokens), kBlockThreads, 0, ctx.stream().handle()>>>(centred, rows,
                                                                                                        rotary);
  check_launch("heads in 8 bits");
}

template <class In, Before kBefore>
void launch_blocks(Context& ctx, const Rows& rows, const Rotary& rotary, int64_t tokens) {
  const dim3 grid(static_cast<unsigned>(rows.heads), static_cast<unsigned>(divide_up(tokens, kKeysAScale)));
  round_blocks_kernel<In, kBefore><<<grid, kBlockThreads, 0, ctx.stream().handle()>>>(rows, rotary, tokens);
  check_launch("blocks of keys in 8 bits");
}

void check_heads(int64_t head_dim) { nostos::check(head_dim == kHopperHeadDim, "a GPU rounds heads of 128"); }

Rows rows_of(ConstView heads) {
  const Shape& shape = heads.shape();
  return {.from = heads.bytes(),
          .head_stride = shape[1] * kHopperHeadDim,
          .token_stride = kHopperHeadDim,
          .heads = static_cast<int>(shape[0])};
}

}  // namespace

void run(OnCuda<key_centres>, Context& ctx, ConstView k, View centres) {
  check_heads(k.shape()[2]);
  if (k.shape()[0] == 0) return;
  with_elements(k, [&]<class In>(const In*) {
    launch_rows<In, Before::nothing>(ctx, centred(rows_of(k), k.shape()[1], centres.data<float>()), {}, {}, 0);
  });
}

void run(OnCuda<quantise_heads>, Context& ctx, ConstView heads, const HeadRounding& rounding, View numbers,
         View scales) {
  check_heads(heads.shape()[2]);
  if (heads.elements() == 0) return;
  Rows rows = rows_of(heads);
  rows.numbers = reinterpret_cast<uint8_t*>(numbers.bytes());
  rows.numbers_head_stride = rows.head_stride;
  rows.numbers_token_stride = rows.token_stride;
  rows.scales = scales.data<float>();
  rows.scales_stride = scales.shape()[1];
  rows.centres = optional_data<float>(rounding.centres);
  with_elements(heads, [&]<class In>(const In*) {
    if (rounding.shared_rows == 1)
      launch_rows<In, Before::nothing>(ctx, {}, rows, {}, heads.shape()[1]);
    else
      launch_blocks<In, Before::nothing>(ctx, rows, {}, heads.shape()[1]);
  });
}

}  // namespace nostos::ops

namespace nostos::cuda {

void round_packed_heads(Context& ctx, View qkv, const ops::RotaryHeads& rotary, ops::HeadCounts heads, float* centres,
                        const HeadScales& scales) {
  using namespace ops;
  const int64_t tokens = qkv.shape()[0], token_stride = qkv.shape()[1];
  check(qkv.dtype() == DType::bf16 && token_stride == heads.all() * kHopperHeadDim, "packed heads of 128 are rounded");
  constexpr int64_t kElementBytes = sizeof(bfloat16);
  const auto rows = [&](int64_t first, int64_t count, float* to, int64_t stride, const float* less) {
    std::byte* const at = qkv.bytes() + first * kHopperHeadDim * kElementBytes;
    return Rows{.from = at,
                .head_stride = kHopperHeadDim,
                .token_stride = token_stride,
                .numbers = reinterpret_cast<uint8_t*>(at),
                .numbers_head_stride = kHopperHeadDim * kElementBytes,
                .numbers_token_stride = token_stride * kElementBytes,
                .scales = to,
                .scales_stride = stride,
                .centres = less,
                .heads = static_cast<int>(count)};
  };
  const Rows q = rows(0, heads.q, scales.q, tokens, nullptr),
             k = rows(heads.q, heads.kv, scales.k, divide_up(tokens, kKeysAScale), centres);
  const Rotary angles = rotary_of(rotary);
  check(is_aligned(angles.q_norm, angles.k_norm, angles.cos, angles.sin), "heads begin at 16 bytes");
  const auto launch = [&]<Before kBefore>(std::integral_constant<Before, kBefore>) {
    launch_rows<bfloat16, kBefore>(ctx, centred(k, tokens, centres), q, angles, tokens);
    launch_blocks<bfloat16, kBefore>(ctx, k, angles, tokens);
  };
  if (!rotary.cos) return launch(std::integral_constant<Before, Before::nothing>());
  if (rotary.pairs == RotaryPairs::interleaved) return launch(std::integral_constant<Before, Before::interleaved>());
  launch(std::integral_constant<Before, Before::half_split>());
}

}  // namespace nostos::cuda
