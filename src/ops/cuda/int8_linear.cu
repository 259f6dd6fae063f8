// Implements the rounding of rows to 8 bits.
#include "ops/int8_linear.h"

#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/rounding.cuh"
#include "ops/device_op.h"

namespace nostos::ops {

using namespace cuda;
namespace {

// A thread has units of 16 neighbouring numbers.
using Rotation = WarpRotation<false>;
constexpr int kUnit = kRoundedUnit, kMostThreads = 640, kMostUnits = 4;
static_assert(fits_every_gpu(kMostThreads, kMostThreads / 32 * (Rotation::kFloats + 1) * int64_t{sizeof(float)}));

/// Reads a unit, through the L1 cache: two halves of a sector are read one after the other.
template <class In>
__device__ inline void load_unit(const In* from, float (&x)[kUnit]) {
  constexpr int kQuads = kUnit * static_cast<int>(sizeof(In)) / 16;
  uint4 quads[kQuads];
#pragma unroll
  for (int i = 0; i < kQuads; ++i) quads[i] = __ldg(reinterpret_cast<const uint4*>(from) + i);
  Raw<In, kUnit> raw;
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    raw.words[4 * i] = quads[i].x, raw.words[4 * i + 1] = quads[i].y;
    raw.words[4 * i + 2] = quads[i].z, raw.words[4 * i + 3] = quads[i].w;
  }
  raw.unpack(x);
}

/// A block has a row, a thread units of 16 numbers of it. Lanes without a unit take part in the rotation with zeros.
/// \param kRotation 256, 16 or 0 (none)
template <int kRotation, int kUnits, class In>
__global__ void __launch_bounds__(kMostThreads)
    quantise_kernel(const In* x, int units, int8_t* numbers, float* scales) {
  extern __shared__ float turned_of_warps[];
  __shared__ uint32_t largest_of_warp[kMostThreads / 32];
  // What was written last is still in the L2 cache, and the product begins with the first rows.
  const int64_t row = gridDim.x - 1 - blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const Rotation rotation(turned_of_warps + warp * Rotation::kFloats);
  float values[kUnits][kUnit];
  uint32_t largest_bits = 0;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const int unit = u * static_cast<int>(blockDim.x) + thread;
    if (unit < units) {
      load_unit(x + (row * units + unit) * kUnit, values[u]);
    } else {
#pragma unroll
      for (float& value : values[u]) value = 0;
    }
    if constexpr (kRotation == 256) rotation.rotate(values[u]);
    if constexpr (kRotation == 16) rotate_two_digits(values[u]);
    largest_bits = largest_magnitude(values[u], largest_bits);
  }
  constexpr int kLarger = kRotation == 256 ? Rotation::kLarger : kRotation == 16 ? 4 : 1;
  const auto rounded = RowRounding::of<kLarger>(block_largest(largest_bits, largest_of_warp));
  if (thread == 0) scales[row] = rounded.scale;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const float(&own)[kUnit] = values[u];
    const int unit = u * static_cast<int>(blockDim.x) + thread;
    uint4* const to = reinterpret_cast<uint4*>(numbers) + row * units;
    if constexpr (kRotation == 256) {
      rotation.write(own, rounded, reinterpret_cast<uint32_t*>(to + unit / kUnit * kUnit), unit < units);
    } else if (unit < units) {
      to[unit] = {rounded(own[0], own[1], own[2], own[3]), rounded(own[4], own[5], own[6], own[7]),
                  rounded(own[8], own[9], own[10], own[11]), rounded(own[12], own[13], own[14], own[15])};
    }
  }
}

template <class Body>
void with_count(int count, const Body& body) {
  switch (count) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    default:
      return body(std::integral_constant<int, 4>());
  }
}

}  // namespace

void run(OnCuda<quantise_rows>, Context& ctx, ConstView x, int64_t rotation, View numbers, View scales) {
  const int64_t rows = x.shape()[0];
  if (rows == 0) return;
  const int units = static_cast<int>(x.shape()[1] / kUnit), count = (units + kMostThreads - 1) / kMostThreads;
  nostos::check(count <= kMostUnits, "a row is rounded to 8 bits by one block");
  const int threads = (units + 32 * count - 1) / (32 * count) * 32;
  with_elements(x, [&]<class In>(const In* in) {
    with_count(count, [&](auto units_each) {
      const auto launch = [&](auto turns) {
        const int shared = turns == 256 ? threads / 32 * Rotation::kFloats * int{sizeof(float)} : 0;
        quantise_kernel<turns, units_each, In><<<static_cast<unsigned>(rows), threads, shared, ctx.stream().handle()>>>(
            in, units, numbers.data<int8_t>(), scales.data<float>());
      };
      if (rotation == kWideRotation) launch(std::integral_constant<int, 256>());
      if (rotation == kNarrowRotation) launch(std::integral_constant<int, 16>());
      if (rotation == 0) launch(std::integral_constant<int, 0>());
      check_launch("quantise_rows");
    });
  });
}

}  // namespace nostos::ops
