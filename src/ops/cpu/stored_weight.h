// Owns weights that stay as they are stored, on the CPU: what a product with one goes through, part after part.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"
#include "ops/linear.h"
#include "ops/packed_weight.h"
#include "ops/stored_weight.h"
#include "tensor/tensor.h"

namespace nostos::cpu {

/// What keep_stored() makes.
struct KeptWeight final : PackedWeight {
  std::vector<StoredPiece> pieces;
};

/// \return null if `w` has been packed.
inline const KeptWeight* kept_of(const Linear& w) { return dynamic_cast<const KeptWeight*>(w.packed.get()); }

/// Rows of a weight, plain, and where the outputs of a product with them go.
struct WeightPart {
  const std::byte* rows = nullptr;  ///< [out, in] of the product's inputs
  int64_t in = 0, out = 0;
  int64_t stride = 0;           ///< numbers from one row to the next
  const float* bias = nullptr;  ///< [out], or null
  float* y = nullptr;           ///< the first of `out` columns
  int64_t y_stride = 0;         ///< elements between rows
};

/// Memory of one context that grows to the largest request and stays.
struct GrowingBuffer {
  std::byte* at_least(size_t bytes) {
    if (memory.size_bytes() < bytes) memory = Buffer(Device{}, bytes);
    return memory.data();
  }
  Buffer memory;
};

/// The numbers of the part that a context's product is at.
struct KeptNumbers : GrowingBuffer {
  explicit KeptNumbers(Context&) {}
};

/// out = rows [first, first + rows of out) of the weight that `pieces` make up.
/// \param stride of out: numbers from one row to the next
void dequantise_rows(const Context& ctx, std::span<const StoredPiece> pieces, int64_t first, View out, int64_t stride);

/// Outputs that are turned into numbers at a time. Measured at 1056 rows, from 128 to 1024: products take equally long.
inline constexpr int64_t kPartRows = 256;

/// Calls body(part) for parts of kPartRows rows of a kept weight, whose numbers lie in one place, one after
/// the other. \param y f32 [rows, w.out] \param padding numbers between rows
template <class Body>
void each_part(Context& ctx, const Linear& w, View y, int64_t padding, const Body& body) {
  const int64_t most = std::min(kPartRows, w.out), stride = w.in + padding;
  std::byte* const scratch =
      ctx.state<KeptNumbers>().at_least(static_cast<size_t>(most * stride) * size_bytes(w.input));
  for (int64_t first = 0; first < w.out; first += most) {
    const View numbers(scratch, w.input, {std::min(most, w.out - first), w.in});
    dequantise_rows(ctx, kept_of(w)->pieces, first, numbers, stride);
    body(WeightPart{scratch, w.in, numbers.shape()[0], stride, w.bias ? w.bias.data<float>() + first : nullptr,
                    y.data<float>() + first, w.out});
  }
}

/// \return the whole of a packed weight whose rows lie as they came.
inline WeightPart whole_weight(const Linear& w, View y) {
  return {w.packed->storage.data(), w.in, w.out, w.in, w.bias ? w.bias.data<float>() : nullptr, y.data<float>(), w.out};
}

}  // namespace nostos::cpu
