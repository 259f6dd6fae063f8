// Owns the denoising loop: flow-match Euler steps with classifier-free guidance.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "device/context.h"
#include "device/graph.h"
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

/// The two captions of a run; there is no negative one without guidance.
enum Side : size_t { kPositive, kNegative };

/// A denoising run of one rank as far as it is known before anything is computed.
struct SamplerPlan {
  nn::SequenceParallel picture;  ///< this rank's share
  /// The ranks with the same share of the two guidance halves, of which each computes one; null where this rank
  /// computes both.
  Communicator* halves = nullptr;
  Communicator* world = nullptr;  ///< of all ranks of the run; null where this one is alone
  Schedule schedule;
  Guidance guidance;
  std::array<int64_t, 2> caption_tokens{};  ///< padded; 0 for the negative without guidance

  int64_t steps() const { return static_cast<int64_t>(schedule.times.size()); }
};

/// Memory of a denoising run. Tokens are this rank's unless said.
struct SamplerMemory {
  /// One prediction that this rank makes in a step.
  struct Pass {
    Side side = kPositive;
    zimage::Conditioning conditioning{};
    zimage::Scratch scratch{};  ///< every pass in the same memory: a forward pass leaves nothing behind
  };
  std::vector<Pass> passes{};
  zimage::Modulation modulation{};
  View deltas{};                     ///< f32 [1, steps, 1]: the change of sigma in each step
  View step_delta{};                 ///< f32 [1, 1, 1]: of the step under way
  View tokens{};                     ///< f32 [tokens, patch width]: the state, in token layout through the whole loop
  std::array<View, 2> velocity{};    ///< f32, likewise, of each side; negative null without guidance
  View token_squares{};              ///< f64 [tokens, 2] of ops::guide(); null without a cap of the norm
  View all_tokens{}, all_squares{};  ///< of all ranks
  View gathered_tokens{}, gathered_squares{};  ///< room to gather them

  /// Takes all but the passes' scratch memory.
  static SamplerMemory take(Arena& arena, const zimage::Config& config, DType dtype, const SamplerPlan& plan);
  /// Takes that: memory of which nothing is expected when a run begins.
  void take_scratch(Arena& arena, const zimage::Config& config, DType dtype, const SamplerPlan& plan);
};

/// What a sampler leaves to the next one that has the same plan, in the same memory.
struct SamplerLeft {
  bool has_positions = false;   ///< the rotary tables are filled
  std::array<Graph, 2> step{};  ///< a recorded step: not guided, guided
};

/// Denoises latents of one size for one prompt, on one rank or as one of many: any number of pictures. Neither allocates
/// GPU memory nor waits for the GPU.
///
/// On a GPU each kind of step (guided or not) runs once as it is and is recorded then, while the GPU works, if exchanges
/// with the peers can be recorded; later steps launch the recording. What changes from step to step stands in fixed
/// places, which are filled before.
class Sampler {
 public:
  /// \param captions whole refined captions f32 [plan.caption_tokens, hidden]; the negative null without guidance.
  /// \param left by the sampler before, empty unless its plan and memory were these; what the sampler refers to must
  /// outlive it.
  Sampler(Context& ctx, const zimage::Transformer& transformer, const SamplerPlan& plan, const SamplerMemory& memory,
          const std::array<ConstView, 2>& captions, SamplerLeft& left);

  /// Called for each step with its number, from 1, and the milliseconds of the last one that is done: on the CPU this
  /// one, on a GPU, where the host is one step ahead, the one before.
  using OnStep = std::function<void(int64_t step, double step_ms)>;

  /// latents <- the schedule's end, from noise; the ranks meet once, at the end, but for the exchanges of each layer.
  /// \param latents f32 [channels, height, width], whole on every rank, in place. \throws Error cancelled, peer_failed
  void run(View latents, const OnStep& on_step);

  /// \return this rank's rows of a forward pass: image and caption.
  int64_t rows() const { return memory_.passes.front().scratch.x.shape()[0]; }
  /// \return each step of all pictures so far.
  const std::vector<Stopwatch>& steps() const { return steps_; }
  /// \return floating-point operations of the matrix products of one guided step, all ranks together.
  double step_flop() const { return step_flop_; }

 private:
  /// Enqueues a step by launching its recording, if there is one.
  void enqueue_step(int64_t step, bool guided);
  /// Makes the factors and the change of sigma of `step` those of the step under way.
  void select_step(int64_t step);
  /// Predicts, guides and moves the tokens, for the step under way.
  void make_step(bool guided);
  void predict(bool guided);
  void guide();
  /// Waits, without blocking on the GPU, until at most one step is under way, and tells on_step.
  void keep_one_ahead(int64_t step, const OnStep& on_step);

  Context& ctx_;
  const zimage::Transformer& transformer_;
  const SamplerPlan& plan_;
  const SamplerMemory& memory_;
  SamplerLeft& left_;
  double step_flop_ = 0;
  std::vector<Stopwatch> steps_;
};

}  // namespace nostos
