// Owns the blocks that the Z-Image transformer and its control networks are made of: their memory, a run of them, and
// the seam through which others work on the residual stream between them.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "device/context.h"
#include "models/zimage/config.h"
#include "models/zimage/weights.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"
#include "nn/probe.h"
#include "ops/norm.h"
#include "tensor/tensor.h"

namespace nostos::zimage {

/// A block's factors for one step: f32 [hidden] each, or null in context refiners.
struct BlockModulation {
  ConstView attention_scale, attention_gate, ffn_scale, ffn_gate;
};

/// \param step_blocks f32 [blocks, 1, 4 * hidden]: attention scale and gate, FFN scale and gate of the step under way
/// \return the factors of a block.
BlockModulation step_modulation(ConstView step_blocks, int64_t block);

/// factors <- those of a block for all steps. \param input of the adaLN layers, [steps, modulation width] of the
/// weights' dtype \param factors f32 [steps, 4 * hidden]
void modulate_block(Context& ctx, ConstView input, const BlockWeights& block, View factors);

/// Memory of a block for a rank's rows of several sequences.
struct BlockScratch {
  View normed;     ///< [rows, hidden] of the weights' dtype
  View projected;  ///< ops::product_dtype() [rows, hidden]
  nn::AttentionScratch attention;
  nn::FeedForwardScratch feed_forward;
  View normed_scales;  ///< f32 [rows], of normed's rows where these are rounded; null where they cannot be

  static BlockScratch take(Arena& arena, const Config& config, std::span<const nn::ShardedSequence* const> sequences,
                           DType dtype);
};

/// Works on the residual stream between the blocks of a run, as a control network does.
class BetweenBlocks {
 public:
  virtual ~BetweenBlocks() = default;
  /// Called before the first block. \param sequences of the run, which outlive it
  /// \param x f32 [rows of all sequences, hidden]: the residual stream
  virtual void begin(Context& ctx, std::span<const nn::AttendedSequence> sequences, View x) = 0;
  /// \return whether after() is to be called for the block, by its place in the run.
  virtual bool follows(size_t block) const = 0;
  /// Called behind a block, while the run's scratch holds nothing: what works here may have its own in the same memory.
  /// \param x as in begin(). \param next the norm that the next block begins with, or none
  /// \return whether it made `next` of x.
  virtual bool after(Context& ctx, size_t block, View x, const ops::NextNorm& next) = 0;
};

/// Calls the probe, if there is one.
void report(const nn::Probe& probe, const std::string& name, ConstView rows);

/// Blocks of one kind, over the rows of some sequences.
struct BlockRun {
  using Modulations = std::function<BlockModulation(size_t)>;

  Context& ctx;
  const Config& config;
  std::span<const nn::AttendedSequence> sequences;
  const BlockScratch& s;
  const nn::Probe& probe;

  /// The norm that a block begins with. \return where it is: s.normed
  ops::ProductRows norm(const BlockWeights& w, const BlockModulation& mod, ConstView x) const;
  /// \return the same norm, to be made where the block before ends, rounded in s.normed's place if the block takes that
  ops::NextNorm next_norm(const BlockWeights& w, const BlockModulation& mod) const;
  /// The part of a block in which its matrices are used: x <- x + gate * norm(attention(normed)), and s.projected <-
  /// the SwiGLU FFN of that. \param x f32 [rows, hidden], in place. \param normed of x, the block's first norm
  void products(const BlockWeights& w, const BlockModulation& mod, View x, const ops::ProductRows& normed,
                const std::string& name) const;
  /// What is left: x <- x + gate * norm(s.projected). \param next gets the next block's norm while x is at hand
  void end(const BlockWeights& w, const BlockModulation& mod, View x, const ops::NextNorm& next) const;

  /// Runs blocks one after another. \param modulation of block i. \param between or null
  /// \throws Error cancelled between blocks, peer_failed
  void all(std::span<const BlockWeights> blocks, const Modulations& modulation, View x, const std::string& name,
           BetweenBlocks* between = nullptr) const;

 private:
  /// \return the norm that products with `w` read, in s.normed's place.
  ops::NextNorm norm_for(const Linear& w, ConstView weight, ConstView scale) const;
};

/// \return floating-point operations of the matrix products of `count` blocks over `rows`.
double blocks_flop(const Config& config, int64_t count, int64_t rows);

}  // namespace nostos::zimage
