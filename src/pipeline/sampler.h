// Owns the denoising loop: flow-match Euler steps with classifier-free guidance.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "device/context.h"
#include "device/stopwatch.h"
#include "models/zimage/transformer.h"
#include "nn/sequence_parallel.h"
#include "pipeline/schedule.h"
#include "tensor/tensor.h"

namespace nostos {

/// Classifier-free guidance of a run.
struct Guidance {
  float scale = 0;          ///< 0: off
  float normalization = 0;  ///< see GenerationRequest::cfg_normalization
  float truncation = 1;     ///< see GenerationRequest::cfg_truncation

  /// \return whether the step at model time `time` is guided.
  bool applies_at(float time) const { return scale > 0 && time <= truncation; }
};

/// Denoises latents of one size for one prompt, on one rank or as one of many; plans its memory once and then serves any
/// number of pictures.
class Sampler {
 public:
  /// \param picture this rank's share. \param halves the ranks with the same share of the two guidance
  /// halves, of which each computes one, or null where this rank computes both.
  /// \param positive, negative whole refined captions f32 [padded tokens, hidden]; negative null without guidance.
  /// \throws Error out_of_memory
  Sampler(Context& ctx, const zimage::Transformer& transformer, const Schedule& schedule, const Guidance& guidance,
          nn::SequenceParallel picture, Communicator* halves, ConstView positive, ConstView negative);

  /// Called for each step with its number, from 1, and the milliseconds of the last one that is done: on the CPU this
  /// one, on a GPU, where the host is one step ahead, the one before.
  using OnStep = std::function<void(int64_t step, double step_ms)>;

  /// latents <- the schedule's end, from noise; the ranks meet once, at the end, but for the exchanges of each layer.
  /// \param latents f32 [channels, height, width], whole on every rank, in place. \throws Error cancelled, peer_failed
  void run(View latents, const OnStep& on_step);

  /// \return this rank's rows of a forward pass: image and caption.
  int64_t rows() const { return plan_.passes.front().scratch.x.shape()[0]; }
  /// \return each step of all pictures so far.
  const std::vector<Stopwatch>& steps() const { return steps_; }
  size_t arena_bytes() const { return arena_.peak_bytes(); }
  /// \return floating-point operations of the matrix products of one guided step, all ranks together.
  double step_flop() const { return step_flop_; }

 private:
  enum Side : size_t { kPositive, kNegative };
  /// One prediction that this rank makes in a step.
  struct Pass {
    Side side = kPositive;
    zimage::Conditioning conditioning{};
    zimage::Scratch scratch{};  ///< every pass in the same memory: a forward pass leaves nothing behind
  };
  /// Everything the run needs from one arena. Tokens are this rank's unless said.
  struct Plan {
    std::vector<Pass> passes{};
    zimage::Modulation modulation{};
    View tokens{};                     ///< f32 [tokens, patch width]: the state, in token layout through the whole loop
    std::array<View, 2> velocity{};    ///< f32, likewise, of each side; negative null without guidance
    View token_squares{};              ///< f64 [tokens, 2] of ops::guide(); null without a cap of the norm
    View all_tokens{}, all_squares{};  ///< of all ranks
    View gathered_tokens{}, gathered_squares{};  ///< room to gather them
  };
  using Captions = std::array<ConstView, 2>;
  Plan take_plan(Arena& arena, const Captions& captions) const;

  void predict(int64_t step, bool guided);
  void guide();
  /// Waits, without blocking on the GPU, until at most one step is under way, and tells on_step.
  void keep_one_ahead(int64_t step, const OnStep& on_step);

  Context& ctx_;
  const zimage::Transformer& transformer_;
  const Schedule schedule_;
  const Guidance guidance_;
  const nn::SequenceParallel picture_;
  Communicator* halves_;
  double step_flop_ = 0;
  std::vector<Stopwatch> steps_;
  Arena arena_;
  Plan plan_;
};

}  // namespace nostos
