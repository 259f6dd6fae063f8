// Owns the Z-Image transformer's forward pass, over sequences of image tokens and then prompt tokens. The family's
// denoiser runs it (families/zimage/denoiser.h).
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "models/zimage/blocks.h"
#include "models/zimage/config.h"
#include "models/zimage/weights.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"
#include "nn/probe.h"
#include "nn/rope.h"
#include "nn/sequence_parallel.h"
#include "tensor/tensor.h"

namespace nostos::zimage {

/// What depends on the caption and the picture's size but not on the step: made once a prompt. Rows are this rank's.
struct Conditioning {
  nn::ShardedSequence sequence;  ///< [padded image tokens | padded caption]
  int64_t padded_caption = 0;    ///< tokens of the whole caption
  View caption;                  ///< f32 [caption rows, hidden]: refined
  nn::RopeTable rope;            ///< of [image rows | caption rows]

  static Conditioning take(Arena& arena, const Config& config, const nn::SequenceParallel& picture,
                           int64_t padded_caption);
};

/// Factors of every modulated layer for every step, made once a run, and those of the step under way, which stand in
/// the same place in every step.
struct Modulation {
  View blocks;       ///< f32 [noise refiners + layers, steps, 4 * hidden]: attention scale and gate, FFN scale and gate
  View final;        ///< f32 [1, steps, hidden]
  View step_blocks;  ///< f32 [noise refiners + layers, 1, 4 * hidden]
  View step_final;   ///< f32 [1, 1, hidden]

  View features, time_hidden, embedded, input;  ///< room to make them in

  /// \param dtype of the weights.
  static Modulation take(Arena& arena, const Config& config, int64_t steps, DType dtype);
};

/// Memory of the refining of several captions.
struct RefineScratch {
  View normed;  ///< f32 [caption tokens of all, caption width]
  BlockScratch blocks;

  /// \param lengths the tokens of each caption
  static RefineScratch take(Arena& arena, const Config& config, std::span<const int64_t> lengths, DType dtype);
};

/// An image before it meets a caption.
struct ImageInput {
  ConstView tokens;    ///< f32 [this rank's image tokens, patch width]: the noisy latent as ops::patchify lays it out
  nn::RopeTable rope;  ///< of the image rows
};

/// Images that are refined together.
struct ImageBatch {
  std::span<const ImageInput> images;
  View refined;  ///< f32 [image rows of each, hidden]: what becomes of them
  BetweenBlocks* between = nullptr;
};

/// One sequence of a forward pass: an image with a caption.
struct Pass {
  ConstView image;  ///< f32 [image rows, hidden], of refine_images()
  const Conditioning* conditioning =
      nullptr;    ///< of the caption; its positions are those that the image was refined at
  View velocity;  ///< f32 [image tokens, patch width]: the model's output, not negated
};

/// Sequences that go forward together.
struct PassBatch {
  std::span<const Pass> passes;
  BetweenBlocks* between = nullptr;
};

/// Memory of a forward pass for one or several sequences. What follows x shares its memory: each is used in its own
/// phase.
struct Scratch {
  View x;  ///< f32 [image rows + caption rows of each sequence, hidden]: the residual stream
  BlockScratch blocks;
  View final_normed;  ///< f32 [image tokens, hidden], of one sequence after the other

  static Scratch take(Arena& arena, const Config& config, const nn::SequenceParallel& picture,
                      std::span<const Conditioning* const> conditionings, DType dtype);
};

/// \return memory for refine_images() of `count` images.
BlockScratch take_image_scratch(Arena& arena, const Config& config, const nn::SequenceParallel& picture, size_t count,
                                DType dtype);

/// A loaded transformer. Functions enqueue on ctx and neither allocate on its device nor wait, but for those that say
/// so. The same code runs one rank or its share of many: `picture` says which rows are this rank's.
class Transformer {
 public:
  /// \param max_tokens of a caption
  Transformer(Context& ctx, const Config& config, Weights weights, DType dtype, int64_t max_tokens);

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  /// What keeps the weights, whose vectors adapters write anew.
  WeightStorage& storage() { return weights_.storage; }
  DType dtype() const { return dtype_; }

  /// Embeds and refines whole captions, all at once; one rank does it for all. A caption's rows depend on it alone, bit
  /// for bit. Reads no host memory, so that it can be recorded.
  /// \param lengths the tokens of each caption, at most max_tokens. \param features f32 [caption tokens of all, caption
  /// width]: one caption after the other. \param captions f32 [padded_tokens(caption tokens) of each, hidden], likewise
  void refine(Context& ctx, std::span<const int64_t> lengths, ConstView features, const RefineScratch& scratch,
              View captions, const nn::Probe& probe = {}) const;

  /// Fills the rotary tables of this rank's rows.
  void fill_positions(Context& ctx, const nn::SequenceParallel& picture, const Conditioning& out) const;

  /// Takes this rank's rows of a whole caption. \param caption of refine()
  void take_caption(Context& ctx, const nn::SequenceParallel& picture, ConstView caption,
                    const Conditioning& out) const;

  /// Makes the factors of all steps. \param times model times in [0, 1], one a step.
  void modulate(Context& ctx, std::span<const float> times, const Modulation& out, const nn::Probe& probe = {}) const;

  /// Makes the factors of `step` those of the step under way.
  static void select_step(Context& ctx, const Modulation& modulation, int64_t step);

  /// What a forward pass does before it looks at a caption: embeds, pads and refines images, all at once. Passes with
  /// the same image and as long captions share the result. A row depends on its own image alone, bit for bit.
  /// \param modulation of which the step under way is used. \param scratch of take_image_scratch() for as many.
  /// \param refined f32 [image rows of each, hidden]. Waits for peers where there are any.
  /// \throws Error cancelled between blocks, peer_failed
  void refine_images(Context& ctx, const nn::SequenceParallel& picture, const ImageBatch& batch,
                     const Modulation& modulation, const BlockScratch& scratch, const nn::Probe& probe = {}) const;

  /// The rest of a forward pass, for several sequences at once: weights are read once for all of them. A row depends
  /// on its own sequence alone, bit for bit. Waits and throws likewise.
  /// \param scratch for the passes' conditionings.
  void forward(Context& ctx, const nn::SequenceParallel& picture, const PassBatch& batch, const Modulation& modulation,
               const Scratch& scratch, const nn::Probe& probe = {}) const;

  /// \return floating-point operations of the matrix products of refine_images() for one image, all ranks together.
  double refine_flop(int64_t padded_image) const;
  /// The same of forward() for one pass.
  double forward_flop(int64_t padded_image, int64_t padded_caption) const;

 private:
  Config config_;
  Weights weights_;
  DType dtype_;
  nn::RopeStorage caption_rope_;  // of the longest caption
};

}  // namespace nostos::zimage
