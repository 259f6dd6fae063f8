// Owns the Z-Image transformer's forward pass.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "models/zimage/config.h"
#include "models/zimage/weights.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"
#include "nn/probe.h"
#include "nn/rope.h"
#include "tensor/tensor.h"

namespace nostos::zimage {

/// Tokens of one picture.
struct TokenGrid {
  int64_t height = 0;  ///< latent height / patch
  int64_t width = 0;

  int64_t tokens() const { return height * width; }
  int64_t padded() const { return padded_tokens(tokens()); }
};

/// What depends on the caption but not on the step: made once a prompt.
struct Conditioning {
  int64_t caption_tokens = 0;  ///< real ones
  View caption;                ///< f32 [padded caption, hidden]: refined rows
  nn::RopeTable rope;          ///< of [image | caption], both padded

  static Conditioning take(Arena& arena, const Config& config, const TokenGrid& grid, int64_t caption_tokens);
  int64_t padded_caption() const { return caption.shape()[0]; }
};

/// Factors of every modulated layer for every step, made once a run.
struct Modulation {
  View
      /// f32 [noise refiners + layers, steps, 4 * hidden]: attention scale, attention gate, FFN scale, FFN gate
      blocks;
  View final;  ///< f32 [steps, hidden]

  static Modulation take(Arena& arena, const Config& config, int64_t steps);
};

/// Memory of a block for a number of rows.
struct BlockScratch {
  View normed;     ///< [rows, hidden] of the weights' dtype
  View projected;  ///< f32 [rows, hidden]
  nn::AttentionScratch attention;
  nn::FeedForwardScratch feed_forward;

  static BlockScratch take(Arena& arena, const Config& config, int64_t rows, DType dtype);
};

/// Memory of a forward pass with one caption. The two block scratches share theirs.
struct Scratch {
  View x;  ///< f32 [padded image + padded caption, hidden]: the residual stream
  BlockScratch image, all;

  static Scratch take(Arena& arena, const Config& config, const TokenGrid& grid, const Conditioning& conditioning,
                      DType dtype);
};

/// Called with the name and rows of intermediate results, in order; for tests that look for the first wrong sub-step.
using Probe = std::function<void(std::string_view name, ConstView rows)>;

/// A loaded transformer. Functions enqueue on ctx and neither allocate nor wait, but for those that say so.
class Transformer {
 public:
  Transformer(const Config& config, Weights weights, DType dtype)
      : config_(config), weights_(std::move(weights)), dtype_(dtype) {}

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  DType dtype() const { return dtype_; }

  /// Embeds and refines the caption and fills the rotary tables of `grid`.
  /// \param features f32 [caption tokens, caption width]. Allocates scratch of the caption's size.
  void condition(Context& ctx, const TokenGrid& grid, ConstView features, const Conditioning& out,
                 const nn::Probe& probe = {}) const;

  /// \param times model times in [0, 1], one a step. Allocates scratch of the number of steps.
  void modulate(Context& ctx, std::span<const float> times, const Modulation& out, const nn::Probe& probe = {}) const;

  /// \param tokens f32 [grid tokens, patch width]: the noisy latent as ops::patchify lays it out. \param velocity f32,
  /// the same shape:
  /// the model's output, not negated. \throws Error cancelled between blocks.
  void forward(Context& ctx, const TokenGrid& grid, ConstView tokens, const Conditioning& conditioning,
               const Modulation& modulation, int64_t step, const Scratch& scratch, View velocity,
               const nn::Probe& probe = {}) const;

  /// \return floating-point operations of the matrix products of one forward().
  double forward_flop(const TokenGrid& grid, int64_t padded_caption) const;

 private:
  Config config_;
  Weights weights_;
  DType dtype_;
};

}  // namespace nostos::zimage
