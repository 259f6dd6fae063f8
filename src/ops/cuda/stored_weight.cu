// Implements the ops on stored weights: a thread makes vectors of eight neighbouring numbers, and neighbouring threads
// fill whole sectors of memory. Of the two ops named embed() that of a stored table is known here. Compiled without
// fused products and sums: each number is that of its format's reference.
#include "ops/cuda/stored_weight.h"

#include <algorithm>
#include <array>
#include <bit>

#include "ops/cuda/block_reader.h"
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/device_op.h"
#include "ops/stored_blocks.h"

namespace nostos {
namespace cuda {
namespace {

constexpr uint32_t kMostBlocksY = 65535;   // of a grid
constexpr uint32_t kMostItems = 1u << 30;  // of a launch

/// \return a count of rows, of their numbers or of their bytes. \throws Error internal if there are 2^31
template <class Count>
uint32_t as_u32(Count count) {
  nostos::check(static_cast<uint64_t>(count) < uint64_t{1} << 31, "stored rows are too long or too many");
  return static_cast<uint32_t>(count);
}

/// Division of numbers below 2^31 by one that the host knows.
struct Divisor {
  uint32_t value, factor;
  int shift;

  /// 0 counts as 1.
  explicit Divisor(int64_t by) : value(as_u32(std::max<int64_t>(by, 1))), shift(31 + std::bit_width(value - 1)) {
    factor = static_cast<uint32_t>(((uint64_t{1} << shift) + value - 1) / value);
  }
  __device__ uint32_t quotient(uint32_t number) const {
    return static_cast<uint32_t>(static_cast<uint64_t>(number) * factor >> shift);
  }
};

/// Rows of a stored matrix, and where their numbers go.
struct Rows {
  const uint8_t* data;
  uint32_t stride, columns;  // bytes of a row, numbers of one
  const float* scales;       // null: none
  bool scales_each;          // a row has one of its own
  const int32_t* ids;        // of the rows wanted; null: all
  uint32_t count;            // of rows wanted
  uint32_t begin;            // the first one's place, and so on as in StoredPiece
  Divisor run;
  uint32_t run_stride;

  __device__ uint32_t source(uint32_t i) const { return ids != nullptr ? static_cast<uint32_t>(ids[i]) : i; }
  __device__ const uint8_t* row(uint32_t source) const { return data + static_cast<uint64_t>(source) * stride; }
  __device__ float scale(uint32_t source) const { return scales == nullptr ? 1.f : scales[scales_each ? source : 0]; }
  /// \return where row `i` begins among the numbers that go out.
  __device__ uint64_t place(uint32_t i) const {
    const uint32_t runs = run.quotient(i);
    return static_cast<uint64_t>(begin + runs * run_stride + (i - runs * run.value)) * columns;
  }
};

/// Some numbers of a row, which a thread makes.
struct Item {
  uint32_t source;
  uint32_t within;  // which of the row's items
  uint64_t to;      // where the row begins among the numbers that go out
  bool is_wanted;
};

/// What a launch makes of some rows. A thread has several items, kBlockThreads apart: it reads all of them before it
/// writes the first.
struct Items {
  Rows rows;
  uint32_t first;  // row
  uint32_t count;
  Divisor of_row;

  /// \return item `n` of a thread; where there is none, the last of all, which is not wanted.
  __device__ Item of_thread(int n, int thread_items) const {
    const uint32_t index = (blockIdx.x * thread_items + n) * kBlockThreads + threadIdx.x, at = min(index, count - 1);
    const uint32_t row = of_row.quotient(at), i = first + row;
    return {rows.source(i), at - row * of_row.value, rows.place(i), index < count};
  }
};

/// An item of a matrix of blocks: two times kLanes numbers, whose bits lie in the same bytes. Neighbouring threads fill
/// sectors of memory with the first ones as with the second ones.
constexpr int kTwinNumbers = 2 * kLanes;

template <StoredType kType, int kAlign, class Out>
__global__ void __launch_bounds__(kBlockThreads) block_kernel(const __grid_constant__ Items items, Out* out) {
  using OneBlock = Block<kType, BlockReader<kAlign>>;
  constexpr int kTwin = OneBlock::kTwin;
  constexpr uint32_t kElements = OneBlock::kElements, kItemsBeforeTwin = kTwin / kLanes;
  const Item item = items.of_thread(0, 1);
  if (!item.is_wanted) return;
  const uint32_t column = item.within / kItemsBeforeTwin * (2 * kTwin) + item.within % kItemsBeforeTwin * kLanes;
  const uint8_t* const row = items.rows.row(item.source);
  const OneBlock block{{BlockReader<kAlign>{row + column / kElements * OneBlock::kBytes}}};
  Lanes lanes[2];
  GroupScale by[2];
#pragma unroll
  for (int twin = 0; twin < 2; ++twin) {
    const auto group = static_cast<int>(column % kElements / OneBlock::kGroup) | twin * (kTwin / OneBlock::kGroup);
    const auto first = static_cast<int>(column % OneBlock::kGroup) | twin * (kTwin % OneBlock::kGroup);
    lanes[twin] = block.numbers(group, first);
    by[twin] = block.scale(group);
  }
  Out* const to = out + item.to + column;
#pragma unroll
  for (int twin = 0; twin < 2; ++twin) {
    float values[kLanes];
#pragma unroll
    for (int j = 0; j < kLanes; ++j) values[j] = block_number<OneBlock>(by[twin], lanes[twin], j);
    if (items.rows.scales != nullptr) [[unlikely]] {
      const float scale = items.rows.scale(item.source);
#pragma unroll
      for (float& value : values) value *= scale;
    }
    store<kLanes>(values, to + twin * kTwin);
  }
}

/// V numbers that stand alone, as they lie in memory.
template <StoredType kType, int V>
struct RawSingles {
  using Bits = typename Single<kType>::Bits;
  alignas(V == 1 ? alignof(Bits) : 16) Bits bits[V];

  __device__ void load(const uint8_t* from) {
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
  }
  __device__ Lanes lanes() const {
    const auto* const words = reinterpret_cast<const uint32_t*>(bits);
    return {words[0], words[1]};
  }
};

/// Eight numbers of one byte, made with fewer steps than Single has, where all are finite.
template <StoredType kType>
struct QuickSingles {
  static constexpr bool kIs = false;
};
/// Finite 8-bit floats by one product: their bits are those of a float32 of another exponent.
/// \tparam kToSpecial with which each of 4 infinite numbers or NaN reaches 0x80
template <int kShift, int kExponent, uint32_t kToSpecial>
struct QuickFloats {
  static constexpr bool kIs = true;
  static __device__ bool are_finite(Lanes lanes) {
    return ((((lanes.low & 0x7f7f7f7fu) + kToSpecial) | ((lanes.high & 0x7f7f7f7fu) + kToSpecial)) & 0x80808080u) == 0;
  }
  static __device__ float value(Lanes lanes, int at) {
    constexpr uint32_t kSignAndRest = 0x80000000u | 0x7fu << kShift;
    const auto top = static_cast<int32_t>(chosen_bytes(lanes.of(at), 0, static_cast<uint32_t>(at % 4) << 12 | 0x0444u));
    return __uint_as_float(static_cast<uint32_t>(top >> (24 - kShift)) & kSignAndRest) *
           __uint_as_float(static_cast<uint32_t>(127 + kExponent) << 23);
  }
};
template <>
struct QuickSingles<StoredType::f8_e4m3> : QuickFloats<20, 120, 0x01010101u> {};
template <>
struct QuickSingles<StoredType::f8_e5m2> : QuickFloats<21, 112, 0x04040404u> {};
template <>
struct QuickSingles<StoredType::i8> {
  static constexpr bool kIs = true;
  static __device__ bool are_finite(Lanes) { return true; }
  static __device__ float value(Lanes lanes, int at) {
    return whole_lane(lanes ^ BlockReader<1>::splat(0x80), at, 128);
  }
};

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
__device__ void put_singles(const RawSingles<kType, V>& raw, bool has_scale, float scale, Out* to) {
  using Quick = QuickSingles<kType>;
  float values[V];
  if constexpr (Quick::kIs && V == kLanes) {
    if (Quick::are_finite(raw.lanes()) && isfinite(scale)) {  // then no product is NaN, either
#pragma unroll
      for (int j = 0; j < V; ++j) values[j] = Quick::value(raw.lanes(), j) * scale;
      store<V>(values, to);
      return;
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const float value = Single<kType>::value(raw.bits[j]);
    values[j] = has_scale ? scaled(value, scale) : value;
  }
  store_exactly<V>(values, to);
}

template <StoredType kType, int V, int kItems, class Out>
__global__ void __launch_bounds__(kBlockThreads) single_kernel(const __grid_constant__ Items items, Out* out) {
  Item item[kItems];
  RawSingles<kType, V> raw[kItems];
  float scale[kItems];
#pragma unroll
  for (int n = 0; n < kItems; ++n) {
    item[n] = items.of_thread(n, kItems);
    const uint64_t column = static_cast<uint64_t>(item[n].within) * V;
    item[n].to += column;
    raw[n].load(items.rows.row(item[n].source) + column * sizeof(typename Single<kType>::Bits));
    scale[n] = items.rows.scale(item[n].source);
  }
#pragma unroll
  for (int n = 0; n < kItems; ++n) {
    if (item[n].is_wanted) put_singles(raw[n], items.rows.scales != nullptr, scale[n], out + item[n].to);
  }
}

/// Columns that a block of rotated_kernel has: whole rotations. \param rotation at most kMostRotation
constexpr int rotated_columns(int rotation) { return std::max(4 * kBlockThreads, rotation); }
static_assert(fits_every_gpu(kBlockThreads, 2 * rotated_columns(kMostRotation) * int64_t{sizeof(int32_t)}));

/// A thread makes four numbers at each step of the rotation, which go through shared memory to the next step: twice
/// rotated_columns() numbers, read and written in turn. \param digits of a rotation's indices to the base 4
template <class Out>
__global__ void __launch_bounds__(kBlockThreads)
    rotated_kernel(const __grid_constant__ Rows rows, int digits, Out* out) {
  extern __shared__ int32_t sums[];
  const int quarter_bits = 2 * (digits - 1), quarter = 1 << quarter_bits, rotation = 4 * quarter;
  const int columns = max(4 * kBlockThreads, rotation);
  const uint32_t first = blockIdx.x * static_cast<uint32_t>(columns);
  const int fours = static_cast<int>(min(static_cast<uint32_t>(columns), rows.columns - first) / 4);
  for (uint32_t i = blockIdx.y; i < rows.count; i += gridDim.y) {
    const uint32_t source = rows.source(i);
    const auto* const stored = reinterpret_cast<const int8_t*>(rows.row(source)) + first;
    const float factor = rotation_factor(rotation), scale = rows.scale(source);
    Out* const to = out + rows.place(i) + first;
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

/// Two whole numbers of 16 bits, one in each half of a word: sums of words are those of the numbers.
__device__ uint32_t both_halves(int low, int high) {
  return static_cast<uint32_t>(low) + (static_cast<uint32_t>(high) << 16);
}

/// Rotations of 16, 64 or 256, whose sums take at most 16 bits, within neighbouring lanes of a warp. A thread's eight
/// numbers differ in the lowest digit and in the lower bit of the next; the upper bits are the lane's.
template <int kDigits, int kItems, class Out>
__global__ void __launch_bounds__(kBlockThreads) rotated_lanes_kernel(const __grid_constant__ Items items, Out* out) {
  static_assert(kDigits >= 2 && kDigits <= 4);
  Item item[kItems];
  uint2 stored[kItems];
  float scale[kItems];
#pragma unroll
  for (int n = 0; n < kItems; ++n) {
    item[n] = items.of_thread(n, kItems);
    const uint32_t column = item[n].within * kLanes;
    item[n].to += column;
    stored[n] = __ldcg(reinterpret_cast<const uint2*>(items.rows.row(item[n].source) + column));
    scale[n] = items.rows.scale(item[n].source);
  }
#pragma unroll
  for (int n = 0; n < kItems; ++n) {
    uint32_t sums[2][2];  // by the next digit's lower bit and the lowest one's upper bit
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto four = static_cast<int>(i == 0 ? stored[n].x : stored[n].y);
      const auto sum = [four](uint32_t signs) { return __dp4a(four, static_cast<int>(signs), 0); };
      sums[i][0] = both_halves(sum(0xff010101u), sum(0x01ff0101u));
      sums[i][1] = both_halves(sum(0x0101ff01u), sum(0x010101ffu));
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const uint32_t a = sums[0][k], b = sums[1][k], c = __shfl_xor_sync(kAllLanes, a, 1),
                     d = __shfl_xor_sync(kAllLanes, b, 1);
      sums[0][k] = a + b + c - d, sums[1][k] = a + b + d - c;
    }
#pragma unroll
    for (int digit = 2; digit < kDigits; ++digit) {
      const int one = 1 << (2 * digit - 3);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        uint32_t& sum = sums[k / 2][k % 2];
        sum = sum + __shfl_xor_sync(kAllLanes, sum, one) + __shfl_xor_sync(kAllLanes, sum, 2 * one) -
              __shfl_xor_sync(kAllLanes, sum, 3 * one);
      }
    }
    // 2^23 / 2^kDigits, whose lowest bits are a whole number's, times rotation_factor().
    constexpr uint32_t kSumBits = kWholeNumberBits - (static_cast<uint32_t>(kDigits) << 23);
    constexpr float kBias = (0x1p23f + 0x1p15f) / static_cast<float>(1 << kDigits);
    float values[kLanes];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint32_t biased = sums[k / 2][k % 2] + 0x80008000u;
      values[2 * k] = (__uint_as_float(chosen_bytes(biased, kSumBits, 0x7610)) - kBias) * scale[n];
      values[2 * k + 1] = (__uint_as_float(chosen_bytes(biased, kSumBits, 0x7632)) - kBias) * scale[n];
    }
    if (item[n].is_wanted) store<kLanes>(values, out + item[n].to);
  }
}

/// Calls `launch` (blocks, items) for items of `numbers`, `thread_items` a thread, as often as it takes.
template <class Launch>
void with_items(const Rows& rows, int numbers, int thread_items, const Launch& launch) {
  const Divisor of_row(rows.columns / static_cast<uint32_t>(numbers));
  const uint32_t most = std::max(kMostItems / of_row.value, 1u);
  for (uint32_t first = 0; first < rows.count; first += most) {
    const uint32_t count = std::min(most, rows.count - first) * of_row.value;
    launch(static_cast<unsigned>(divide_up(count, int64_t{kBlockThreads} * thread_items)),
           Items{rows, first, count, of_row});
  }
}

/// \return whether all rows' addresses are multiples of `bytes`.
bool are_aligned(const Rows& rows, uintptr_t bytes) {
  return (reinterpret_cast<uintptr_t>(rows.data) | static_cast<uintptr_t>(rows.stride)) % bytes == 0;
}

template <StoredType kType, class Out>
void run_blocks(const Rows& rows, Out* out, CUstream_st* stream) {
  constexpr int kAlign = block_alignment<kType>();
  nostos::check(is_aligned(out), "whole blocks of numbers go to aligned memory");
  const auto kernel = are_aligned(rows, kAlign) ? block_kernel<kType, kAlign, Out> : block_kernel<kType, 1, Out>;
  with_items(rows, kTwinNumbers, 1,
             [&](unsigned blocks, const Items& items) { kernel<<<blocks, kBlockThreads, 0, stream>>>(items, out); });
}

/// Items of a thread where each is read at once: as many as keep the memory busy.
constexpr int kThreadItems = 2;

template <StoredType kType, class Out>
void run_singles(const Rows& rows, Out* out, CUstream_st* stream) {
  constexpr uintptr_t kAlign = std::min<uintptr_t>(kLanes * sizeof(typename Single<kType>::Bits), 16);
  const bool aligned = rows.columns % kLanes == 0 && is_aligned(out) && are_aligned(rows, kAlign);
  with_vector(aligned, [&](auto v) {
    with_items(rows, v, kThreadItems, [&](unsigned blocks, const Items& items) {
      single_kernel<kType, v, kThreadItems, Out><<<blocks, kBlockThreads, 0, stream>>>(items, out);
    });
  });
}

template <class Out>
void run_rotated(const Rows& rows, int rotation, Out* out, CUstream_st* stream) {
  const int digits = (std::bit_width(static_cast<unsigned>(rotation)) - 1) / 2;
  if (digits >= 2 && digits <= 4 && is_aligned(out) && are_aligned(rows, kLanes)) {
    const auto kernel = digits == 2   ? rotated_lanes_kernel<2, kThreadItems, Out>
                        : digits == 3 ? rotated_lanes_kernel<3, kThreadItems, Out>
                                      : rotated_lanes_kernel<4, kThreadItems, Out>;
    with_items(rows, kLanes, kThreadItems,
               [&](unsigned blocks, const Items& items) { kernel<<<blocks, kBlockThreads, 0, stream>>>(items, out); });
    return;
  }
  const int columns = rotated_columns(rotation);
  const size_t shared_bytes = 2 * static_cast<size_t>(columns) * sizeof(int32_t);
  const dim3 blocks(static_cast<unsigned>(divide_up(rows.columns, columns)),
                    static_cast<unsigned>(std::min(rows.count, kMostBlocksY)));
  rotated_kernel<<<blocks, kBlockThreads, shared_bytes, stream>>>(rows, digits, out);
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
          as_u32(matrix.row_stride),
          as_u32(matrix.columns),
          matrix.scales,
          matrix.format.scales == WeightScales::each_row,
          nullptr,
          as_u32(matrix.rows),
          0,
          Divisor(matrix.rows),
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
    rows.begin = as_u32(piece.begin);
    rows.run = Divisor(piece.run);
    rows.run_stride = as_u32(piece.stride);
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
  rows.count = cuda::as_u32(ids.elements());
  rows.run = cuda::Divisor(ids.elements());
  cuda::run(ctx, table.format, rows, out);
}

}  // namespace ops
}  // namespace nostos
