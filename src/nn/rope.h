// Owns rotary position tables.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::nn {

/// cos and sin of every token's rotary angles, f32 [tokens, head_dim / 2].
struct RopeTable {
  View cos;
  View sin;

  /// Tables of `tokens` rows in `arena`.
  static RopeTable take(Arena& arena, int64_t tokens, int64_t head_dim);
  RopeTable rows(int64_t begin, int64_t count) const { return {cos.rows(begin, count), sin.rows(begin, count)}; }
};

/// A table with memory of its own, for positions that many runs share.
class RopeStorage {
 public:
  RopeStorage(Device device, int64_t tokens, int64_t head_dim)
      : cos_(device, DType::f32, {tokens, head_dim / 2}),
        sin_(device, DType::f32, {tokens, head_dim / 2}),
        table_{cos_, sin_} {}
  RopeTable table() const { return table_; }
  /// \return the first `tokens` rows. \throws Error internal if there are fewer
  RopeTable first(int64_t tokens) const { return table_.rows(0, tokens); }

 private:
  Tensor cos_, sin_;
  RopeTable table_;
};

/// A token's place on at most four axes, e.g. Z-Image's: sequence (caption or frame), row, column. What a model has no
/// axis for is 0.
using AxialPosition = std::array<int64_t, 4>;

/// In which precision the cos and sin of an angle are taken. The angles themselves are float64.
enum class RopeAngles {
  float32,  ///< of the angle rounded to float32: Z-Image, diffusers RopeEmbedder, transformer_z_image.py @58eb52c0
  float64,  ///< of the angle as it is, then rounded to float32: FLUX.2, diffusers get_1d_rotary_pos_embed
};

/// An axial embedding: pair i of axis a turns by position[a] * theta^(-2i / dims[a]), axes side by side.
struct AxialRope {
  std::span<const int64_t> dims;  ///< channels of each axis, even, adding up to head_dim
  double theta = 0;
  RopeAngles angles = RopeAngles::float32;
};

/// Fills `table` with the embedding of one position a row.
void fill_axial_rope(Context& ctx, const AxialRope& rope, std::span<const AxialPosition> positions, RopeTable table);

/// Fills `table` for positions 0, 1, 2, ...: pair i turns by position * theta^(-2i / head_dim), in float32 as
/// transformers computes it.
void fill_sequence_rope(Context& ctx, double theta, RopeTable table);

}  // namespace nostos::nn
