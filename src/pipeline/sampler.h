// Owns the denoising loop: flow-match Euler steps with classifier-free guidance.
#pragma once

#include <cstdint>
#include <functional>

#include "device/context.h"
#include "models/zimage/transformer.h"
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

/// Denoises latents of one size for one prompt; plans its memory once and then serves any number of pictures.
class Sampler {
 public:
  /// \param positive, negative f32 [caption tokens, caption width] features; negative null without guidance.
  /// \throws Error out_of_memory
  Sampler(Context& ctx, const zimage::Transformer& transformer, const Schedule& schedule, const Guidance& guidance,
          const zimage::TokenGrid& grid, ConstView positive, ConstView negative);

  /// Called after each step with its number, from 1, and its wall-clock milliseconds.
  using OnStep = std::function<void(int64_t step, double step_ms)>;

  /// latents <- the schedule's end, from noise. \param latents f32 [channels, height, width], in place. \throws Error
  /// cancelled
  void run(View latents, const OnStep& on_step);

  /// \return rows of a forward pass: padded image and caption tokens.
  int64_t rows() const { return plan_.positive_scratch.x.shape()[0]; }
  size_t arena_bytes() const { return arena_.peak_bytes(); }
  /// \return floating-point operations of the matrix products of one guided step.
  double step_flop() const;

 private:
  /// Everything the run needs from one arena.
  struct Plan {
    zimage::Conditioning positive, negative;
    zimage::Modulation modulation;
    zimage::Scratch positive_scratch, negative_scratch;  ///< in the same memory: a forward pass leaves nothing behind
    View tokens;             ///< f32 [grid tokens, patch width]: the state, in token layout through the whole loop
    View velocity;           ///< f32, likewise
    View negative_velocity;  ///< f32, likewise; null without guidance
    View token_squares;      ///< f64 [grid tokens, 2] of ops::guide(); null without a cap of the norm
  };
  Plan take_plan(Arena& arena, int64_t positive_tokens, int64_t negative_tokens) const;

  Context& ctx_;
  const zimage::Transformer& transformer_;
  const Schedule schedule_;
  const Guidance guidance_;
  const zimage::TokenGrid grid_;
  Arena arena_;
  Plan plan_;
};

}  // namespace nostos
