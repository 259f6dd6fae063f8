// Owns the FLUX.2 transformer's forward pass, over sequences of text tokens, then image tokens, then those of reference
// images. The family's denoiser runs it (families/flux2_klein/denoiser.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "device/context.h"
#include "models/flux2/config.h"
#include "models/flux2/weights.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"
#include "nn/probe.h"
#include "nn/rope.h"
#include "nn/sequence_parallel.h"
#include "tensor/tensor.h"

namespace nostos::flux2 {

/// The sequence of an image with a text and references: which rows are this rank's, and their positions.
struct Layout {
  nn::ShardedSequence sequence;  ///< [text | image | references]
  int64_t text = 0;              ///< rows of the whole text
  nn::RopeTable rope;            ///< of this rank's rows

  /// \param references rows of all reference images together
  static Layout take(Arena& arena, const Config& config, const nn::SequenceParallel& picture, int64_t text,
                     int64_t references);
  /// \return this rank's rows of a segment, among all that it holds.
  parallel::Range text_rows() const { return sequence.segments()[0].local; }
  parallel::Range image_rows() const { return sequence.segments()[1].local; }
  parallel::Range reference_rows() const { return sequence.segments()[2].local; }
};

/// Shifts, scales and gates for every step, made once a run, and those of the step under way, which stand in the same
/// place in every step. All blocks of a kind share them.
struct Modulation {
  /// Of one modulation layer.
  struct Table {
    View steps;  ///< f32 [1, steps, chunks * hidden]
    View step;   ///< f32 [1, 1, chunks * hidden]
  };
  std::array<Table, kStreams> doubles;  ///< chunks: shift, scale, gate of the attention, then those of the FFN
  Table singles;                        ///< chunks: shift, scale, gate
  Table final;                          ///< chunks: scale, shift

  View features, hidden, embedded;  ///< room to make them in

  static Modulation take(Arena& arena, const Config& config, int64_t steps);
};

/// One sequence of a forward pass.
struct Pass {
  ConstView tokens;  ///< f32 [this rank's image tokens, in_channels]: the noisy latents
  const Layout* layout = nullptr;
  ConstView text;        ///< f32 [this rank's text rows, hidden], of embed_text()
  ConstView references;  ///< f32 [this rank's reference rows, hidden], of embed_tokens()
  View velocity;         ///< f32 [image tokens, in_channels]: the model's output
};

/// Memory of a forward pass for one or several sequences.
struct Scratch {
  View x;          ///< f32 [rows, hidden]: the residual stream
  View normed;     ///< [rows, hidden] of the weights' dtype
  View projected;  ///< f32 [rows, hidden], or its first part as ops::product_dtype()
  nn::AttentionScratch attention;
  nn::FeedForwardScratch feed_forward;
  View final_normed;  ///< f32 [image tokens, hidden], of one sequence after the other; in the memory of projected

  static Scratch take(Arena& arena, const Config& config, std::span<const Layout* const> layouts, DType dtype);
};

/// A loaded transformer. Functions enqueue on ctx and neither allocate on its device nor wait, but for those that say
/// so. The same code runs one rank or its share of many.
class Transformer {
 public:
  Transformer(Config config, Weights weights, DType dtype)
      : config_(std::move(config)), weights_(std::move(weights)), dtype_(dtype) {}

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  /// What keeps the weights, whose vectors adapters write anew.
  WeightStorage& storage() { return weights_.storage; }
  DType dtype() const { return dtype_; }

  /// \param features f32 [rows, text width] of the text encoder. \param text f32 [rows, hidden].
  void embed_text(Context& ctx, ConstView features, View text) const;
  /// \param tokens f32 [rows, in_channels] of an image or of references. \param rows f32 [rows, hidden].
  void embed_tokens(Context& ctx, ConstView tokens, View rows) const;
  /// Fills the rotary table of this rank's rows.
  /// \param references the token grid of each reference image, in the order of their rows
  void fill_positions(Context& ctx, const nn::SequenceParallel& picture, std::span<const parallel::Grid> references,
                      const Layout& out) const;

  /// Makes the factors of all steps. \param times model times in [0, 1000], one a step.
  void modulate(Context& ctx, std::span<const float> times, const Modulation& out, const nn::Probe& probe = {}) const;
  /// Makes the factors of `step` those of the step under way.
  static void select_step(Context& ctx, const Modulation& modulation, int64_t step);

  /// Several sequences at once: weights are read once for all of them. A row depends on its own sequence alone, bit for
  /// bit. Waits for peers where there are any. \param scratch for the passes' layouts
  /// \throws Error cancelled between blocks, peer_failed
  void forward(Context& ctx, std::span<const Pass> passes, const Modulation& modulation, const Scratch& scratch,
               const nn::Probe& probe = {}) const;

  /// \return floating-point operations of the matrix products of forward() for one pass, all ranks together.
  double flop(int64_t text, int64_t image, int64_t references) const;

 private:
  Config config_;
  Weights weights_;
  DType dtype_;
};

}  // namespace nostos::flux2
