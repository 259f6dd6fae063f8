// Implements the ops on stored weights: a thread makes some numbers of a row, or of a step of a rotation. Of the two
// ops named embed() that of a stored table is known here. Compiled without fused products and sums: each number is that
// of its format's reference.
#include "ops/cuda/stored_weight.h"

#include <algorithm>
#include <array>

#include "ops/cuda/block_reader.h"
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/device_op.h"
#include "ops/stored_blocks.h"

namespace nostos {
namespace cuda {
namespace {

constexpr int64_t kMostBlocksY = 65535;  // of a grid

/// Rows of a stored matrix, and where their numbers go.
struct Rows {
  const uint8_t* data;
  int64_t stride;          // bytes
  const float* scales;     // null: none
  bool scales_each;        // a row has one of its own
  const int32_t* ids;      // of the rows wanted; null: all
  int64_t count, columns;  // of rows wanted
  int64_t begin;           // the first one's place, and so on as in StoredPiece
  int run;
  int64_t run_stride;

  __device__ int64_t source(int64_t i) const { return ids != nullptr ? ids[i] : i; }
  __device__ const uint8_t* row(int64_t source) const { return data + source * stride; }
  __device__ float scale(int64_t source) const { return scales == nullptr ? 1.f : scales[scales_each ? source : 0]; }
  __device__ int64_t place(int64_t i) const {
    if (i < run) return begin + i;
    const int row = static_cast<int>(i);
    return begin + row / run * run_stride + row % run;
  }
};

/// Numbers of a block that a thread makes: they have a scale in common.
constexpr int kBlockNumbers = 16;

template <StoredType kType, int kAlign, class Out>
__global__ void __launch_bounds__(kBlockThreads) block_kernel(const __grid_constant__ Rows rows, Out* out) {
  using OneBlock = Block<kType, BlockReader<kAlign>>;
  const int column = static_cast<int>(blockIdx.x * kBlockThreads + threadIdx.x) * kBlockNumbers;
  if (column >= rows.columns) return;
  const int within = column % OneBlock::kElements, group = within / OneBlock::kGroup, first = within % OneBlock::kGroup;
  const int64_t block_at = static_cast<int64_t>(column / OneBlock::kElements) * OneBlock::kBytes;
  for (int64_t i = blockIdx.y; i < rows.count; i += gridDim.y) {
    const int64_t source = rows.source(i);
    const OneBlock block{{BlockReader<kAlign>{rows.row(source) + block_at}}};
    uint64_t lanes[kBlockNumbers / kLanes];
#pragma unroll
    for (int k = 0; k < kBlockNumbers / kLanes; ++k) lanes[k] = block.numbers(group, first + k * kLanes);
    const GroupScale by = block.scale(group);
    Out* const to = out + rows.place(i) * rows.columns + column;
#pragma unroll
    for (int k = 0; k < kBlockNumbers / kLanes; ++k) {
      float values[kLanes];
#pragma unroll
      for (int j = 0; j < kLanes; ++j) values[j] = block_number<OneBlock>(by, lanes[k], j);
      if (rows.scales != nullptr) {
        const float scale = rows.scale(source);
#pragma unroll
        for (float& value : values) value *= scale;
      }
      store<kLanes>(values, to + k * kLanes);
    }
  }
}

/// 8-bit floats below the infinite ones and NaN by one product: their bits are those of a float32 of another exponent.
template <StoredType kType>
struct QuickFloat {
  static constexpr bool kIs = false;
};
template <>
struct QuickFloat<StoredType::f8_e4m3> {
  static constexpr bool kIs = true;
  static constexpr int kShift = 20;
  static constexpr float kFactor = 0x1p120f;
  static constexpr uint32_t kToSpecial = 0x01010101;  // with which each of 4 special numbers reaches 0x80
};
template <>
struct QuickFloat<StoredType::f8_e5m2> {
  static constexpr bool kIs = true;
  static constexpr int kShift = 21;
  static constexpr float kFactor = 0x1p112f;
  static constexpr uint32_t kToSpecial = 0x04040404;
};

/// V numbers from `row + first` on.
template <StoredType kType, int V>
__device__ void single_values(const uint8_t* from, float (&values)[V]) {
  using Bits = typename Single<kType>::Bits;
  using Quick = QuickFloat<kType>;
  alignas(16) Bits bits[V];
  if constexpr (V == 1) {
    auto* const bytes = reinterpret_cast<uint8_t*>(bits);
    for (size_t i = 0; i < sizeof(Bits); ++i) bytes[i] = from[i];
  } else if constexpr (sizeof bits == 8) {
    *reinterpret_cast<uint2*>(bits) = __ldcg(reinterpret_cast<const uint2*>(from));
  } else {
#pragma unroll
    for (size_t i = 0; i < sizeof bits / 16; ++i)
      reinterpret_cast<uint4*>(bits)[i] = __ldcg(reinterpret_cast<const uint4*>(from) + i);
  }
  bool is_quick = false;
  if constexpr (Quick::kIs && V == kLanes) {
    const auto* const words = reinterpret_cast<const uint32_t*>(bits);
    uint32_t special = 0;
    for (int i = 0; i < 2; ++i) special |= ((words[i] & 0x7f7f7f7fu) + Quick::kToSpecial) & 0x80808080u;
    is_quick = special == 0;
  }
#pragma unroll
  for (int j = 0; j < V; ++j) {
    if constexpr (Quick::kIs) {
      const uint32_t byte = bits[j];
      values[j] = is_quick ? __uint_as_float((byte & 0x80u) << 24 | (byte & 0x7fu) << Quick::kShift) * Quick::kFactor
                           : Single<kType>::value(byte);
    } else {
      values[j] = Single<kType>::value(bits[j]);
    }
  }
}

/// Rounds as to_bfloat16().
template <int V, class Out>
__device__ void store_exactly(const float (&values)[V], Out* to) {
  bool has_nan = false;
#pragma unroll
  for (int j = 0; j < V; ++j) has_nan = has_nan || values[j] != values[j];
  if (V == 1 || (has_nan && sizeof(Out) == 2)) {
    for (int j = 0; j < V; ++j) put_exactly(values[j], to + j);
  } else {
    store<V>(values, to);
  }
}

template <StoredType kType, int V, class Out>
__global__ void __launch_bounds__(kBlockThreads) single_kernel(const __grid_constant__ Rows rows, Out* out) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x) * V;
  if (column >= rows.columns) return;
  for (int64_t i = blockIdx.y; i < rows.count; i += gridDim.y) {
    const int64_t source = rows.source(i);
    float values[V];
    single_values<kType>(rows.row(source) + column * static_cast<int64_t>(sizeof(typename Single<kType>::Bits)),
                         values);
    if (rows.scales != nullptr) {
      const float scale = rows.scale(source);
#pragma unroll
      for (float& value : values) value = scaled(value, scale);
    }
    store_exactly<V>(values, out + rows.place(i) * rows.columns + column);
  }
}

/// Columns that a block of rotated_kernel has: whole rotations. \param rotation at most kMostRotation
constexpr int rotated_columns(int rotation) { return std::max(4 * kBlockThreads, rotation); }

/// A thread makes four numbers at each step of the rotation, which go through shared memory to the next step: twice
/// rotated_columns() numbers, read and written in turn. \param digits of a rotation's indices to the base 4
template <class Out>
__global__ void __launch_bounds__(kBlockThreads)
    rotated_kernel(const __grid_constant__ Rows rows, int digits, Out* out) {
  extern __shared__ int32_t sums[];
  const int quarter_bits = 2 * (digits - 1), quarter = 1 << quarter_bits, rotation = 4 * quarter;
  const int columns = max(4 * kBlockThreads, rotation);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * columns;
  const int fours = static_cast<int>(min(static_cast<int64_t>(columns), rows.columns - first) / 4);
  for (int64_t i = blockIdx.y; i < rows.count; i += gridDim.y) {
    const int64_t source = rows.source(i);
    const auto* const stored = reinterpret_cast<const int8_t*>(rows.row(source)) + first;
    const float factor = rotation_factor(rotation), scale = rows.scale(source);
    Out* const to = out + rows.place(i) * rows.columns + first;
    for (int digit = 0; digit < digits; ++digit) {
      const int32_t* const from = sums + (digit % 2 == 0 ? columns : 0);
      for (int four = static_cast<int>(threadIdx.x); four < fours; four += kBlockThreads) {
        const int begin = four >> quarter_bits << (quarter_bits + 2), within = four & (quarter - 1);
        int32_t made[4];
        if (digit == 0)
          rotate_digit(stored + begin, quarter, within, made);
        else
          rotate_digit(from + begin, quarter, within, made);
        const int at = begin + 4 * within;
        if (digit + 1 < digits) {
          *reinterpret_cast<int4*>(sums + (digit % 2 == 0 ? 0 : columns) + at) =
              make_int4(made[0], made[1], made[2], made[3]);
        } else {
          for (int j = 0; j < 4; ++j) put(static_cast<float>(made[j]) * factor * scale, to + at + j);
        }
      }
      __syncthreads();
    }
  }
}

dim3 grid_of(const Rows& rows, int64_t block_columns) {
  return dim3(static_cast<unsigned>(divide_up(rows.columns, block_columns)),
              static_cast<unsigned>(std::min(rows.count, kMostBlocksY)));
}

template <StoredType kType, class Out>
void run_blocks(const Rows& rows, Out* out, CUstream_st* stream) {
  constexpr int kAlign = block_alignment<kType>();
  nostos::check(is_aligned(out), "whole blocks of numbers go to aligned memory");
  const bool aligned = (reinterpret_cast<uintptr_t>(rows.data) | static_cast<uintptr_t>(rows.stride)) % kAlign == 0;
  const auto kernel = aligned ? block_kernel<kType, kAlign, Out> : block_kernel<kType, 1, Out>;
  kernel<<<grid_of(rows, kBlockThreads * kBlockNumbers), kBlockThreads, 0, stream>>>(rows, out);
}

template <StoredType kType, class Out>
void run_singles(const Rows& rows, Out* out, CUstream_st* stream) {
  constexpr uintptr_t kAlign = std::min<uintptr_t>(kLanes * sizeof(typename Single<kType>::Bits), 16);
  const bool aligned = rows.columns % kLanes == 0 && is_aligned(out) &&
                       (reinterpret_cast<uintptr_t>(rows.data) | static_cast<uintptr_t>(rows.stride)) % kAlign == 0;
  with_vector(aligned, [&](auto v) {
    single_kernel<kType, v, Out><<<grid_of(rows, kBlockThreads * v), kBlockThreads, 0, stream>>>(rows, out);
  });
}

template <class Out>
void run_rotated(const Rows& rows, int rotation, Out* out, CUstream_st* stream) {
  int digits = 0;
  for (int numbers = rotation; numbers > 1; numbers /= 4) ++digits;
  const int columns = rotated_columns(rotation);
  const size_t shared_bytes = 2 * static_cast<size_t>(columns) * sizeof(int32_t);
  rotated_kernel<<<grid_of(rows, columns), kBlockThreads, shared_bytes, stream>>>(rows, digits, out);
}

template <class Out>
constexpr std::array<void (*)(const Rows&, Out*, CUstream_st*), kStoredTypes> kRunners = {
    run_singles<StoredType::f32, Out>,     run_singles<StoredType::f16, Out>,     run_singles<StoredType::bf16, Out>,
    run_singles<StoredType::f8_e4m3, Out>, run_singles<StoredType::f8_e5m2, Out>, run_singles<StoredType::i8, Out>,
    run_blocks<StoredType::q4_0, Out>,     run_blocks<StoredType::q4_1, Out>,     run_blocks<StoredType::q5_0, Out>,
    run_blocks<StoredType::q5_1, Out>,     run_blocks<StoredType::q8_0, Out>,     run_blocks<StoredType::q2_k, Out>,
    run_blocks<StoredType::q3_k, Out>,     run_blocks<StoredType::q4_k, Out>,     run_blocks<StoredType::q5_k, Out>,
    run_blocks<StoredType::q6_k, Out>,     run_blocks<StoredType::iq4_nl, Out>,   run_blocks<StoredType::iq4_xs, Out>};

/// All rows of `matrix`, side by side.
Rows rows_of(const StoredMatrix& matrix) {
  return {reinterpret_cast<const uint8_t*>(matrix.data),
          static_cast<int64_t>(matrix.row_stride),
          matrix.scales,
          matrix.format.scales == WeightScales::each_row,
          nullptr,
          matrix.rows,
          matrix.columns,
          0,
          static_cast<int>(std::max<int64_t>(matrix.rows, 1)),
          0};
}

void run(Context& ctx, const WeightFormat& format, const Rows& rows, View out) {
  if (rows.count == 0 || rows.columns == 0) return;
  with_elements(out, [&]<class Out>(Out* to) {
    if (format.rotation > 0)
      run_rotated(rows, static_cast<int>(format.rotation), to, ctx.stream().handle());
    else
      kRunners<Out>[static_cast<size_t>(format.type)](rows, to, ctx.stream().handle());
    check_launch("dequantise");
  });
}

}  // namespace

void dequantise_pieces(Context& ctx, std::span<const StoredPiece> pieces, View out) {
  for (const StoredPiece& piece : pieces) {
    Rows rows = rows_of(piece.matrix);
    rows.begin = piece.begin;
    rows.run = static_cast<int>(piece.run);
    rows.run_stride = piece.stride;
    run(ctx, piece.matrix.format, rows, out);
  }
}

}  // namespace cuda

namespace ops {

void run(OnCuda<dequantise>, Context& ctx, std::span<const StoredPiece> pieces, View out) {
  cuda::dequantise_pieces(ctx, pieces, out);
}

void run(OnCuda<embed>, Context& ctx, const StoredMatrix& table, ConstView ids, View out) {
  cuda::Rows rows = cuda::rows_of(table);
  rows.ids = ids.data<int32_t>();
  rows.count = ids.elements();
  rows.run = static_cast<int>(std::max<int64_t>(rows.count, 1));
  cuda::run(ctx, table.format, rows, out);
}

}  // namespace ops
}  // namespace nostos
