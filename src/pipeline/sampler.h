// Owns the denoising loop: flow-match Euler steps with classifier-free guidance.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "device/context.h"
#include "device/graph.h"
#include "device/stopwatch.h"
#include "families/family.h"
#include "nn/sequence_parallel.h"
#include "tensor/tensor.h"

namespace nostos {

/// Classifier-free guidance of a run.
struct Guidance {
  float scale = 0;          ///< 0: off
  float normalization = 0;  ///< see GenerationRequest::cfg_normalization
  float truncation = 1;     ///< see GenerationRequest::cfg_truncation

  bool is_on() const { return scale > 0; }
  /// \return whether the step at model time `time` is guided.
  bool applies_at(float time) const { return is_on() && time <= truncation; }
  friend bool operator==(const Guidance&, const Guidance&) = default;
};

/// The two prompts of a picture; there is no negative one without guidance.
enum Side : size_t { kPositive, kNegative };

/// One picture of a batch.
struct PicturePlan {
  Guidance guidance{};
  std::array<size_t, 2> captions{};  ///< which of the prompt embeddings; the negative of no meaning without guidance

  friend bool operator==(const PicturePlan&, const PicturePlan&) = default;
};

/// The denoising of a batch on one rank as far as it is known before anything is computed.
struct SamplerPlan {
  nn::SequenceParallel share;  ///< this rank's share of a picture
  /// The ranks with the same share of the two guidance halves, of which each computes one; null where this rank
  /// computes both.
  Communicator* halves = nullptr;
  Communicator* world = nullptr;  ///< of all ranks of the run; null where this one is alone
  Schedule schedule;
  std::vector<int64_t> caption_tokens{};  ///< rows of each prompt embedding
  std::vector<PicturePlan> pictures{};
  bool passes_apart = false;  ///< see Batch
  bool can_record = false;    ///< whether steps are recorded: as all ranks do, and not where weights are streamed

  int64_t steps() const { return static_cast<int64_t>(schedule.times.size()); }
  /// \return whether this rank makes the predictions of `side`.
  bool computes(Side side) const { return halves == nullptr || halves->rank() == static_cast<int>(side); }
  /// \return the rows of the passes of picture `picture` on one rank, rounded up: the same on every rank.
  int64_t rows_of(size_t picture) const;
};

/// Memory of a batch. Tokens are this rank's unless said.
struct SamplerMemory {
  struct Picture {
    View tokens{};                   ///< f32 [tokens, patch width]: the state, in token layout through the whole loop
    std::array<View, 2> velocity{};  ///< f32, likewise, of each side; negative null without guidance
  };
  std::vector<Picture> pictures{};
  std::unique_ptr<Denoiser> denoiser{};
  View deltas{};                               ///< f32 [1, steps, 1]: the change of sigma in each step
  View step_delta{};                           ///< f32 [1, 1, 1]: of the step under way
  View token_squares{};                        ///< f64 [tokens, 2] of ops::guide(); null without a cap of the norm
  View all_tokens{}, all_squares{};            ///< of all ranks, of one picture after the other
  View gathered_tokens{}, gathered_squares{};  ///< room to gather them

  /// Takes all but what take_scratch() takes. \param plan outlives the memory.
  static SamplerMemory take(Arena& arena, const Family& family, const SamplerPlan& plan);
  /// Takes memory of which nothing is expected when a run begins.
  void take_scratch(Arena& arena, const SamplerPlan& plan);
};

/// Scales `velocity` down so that the whole picture's norm is at most `ratio` times that of the positive prediction: the sums
/// of all ranks' tokens (memory.token_squares) are added in the picture's own order on every rank, however they are dealt.
/// \param velocity f32, this rank's tokens
void cap_norm(Context& ctx, const nn::SequenceParallel& share, const SamplerMemory& memory, float ratio, View velocity);

/// What a step makes of a picture, by the number of passes: none where nobody wants it any more.
enum class Prediction : uint8_t { none, plain, guided };
/// The same of each picture of a batch.
using StepKind = std::vector<Prediction>;

/// What a sampler leaves to the next one that has the same plan, in the same memory.
struct SamplerLeft {
  std::vector<int64_t> caption_tokens{};  ///< whose plan it was
  std::vector<PicturePlan> pictures{};
  bool has_positions = false;         ///< the rotary tables are filled
  std::map<StepKind, Graph> steps{};  ///< recorded where it can be; of the first kMostSteps kinds

  static constexpr size_t kMostSteps = 8;  ///< a client that cancels some of many pictures makes other kinds
};

/// Denoises a batch of pictures of one size, step by step, on one rank or as one of many. Each picture has the bits that
/// it would have alone. Neither allocates GPU memory nor waits for the GPU.
///
/// On a GPU each kind of step runs once as it is and is recorded then, while the GPU works, if the plan says so; later steps launch the recording. What changes from step to step stands in fixed
/// places, which are filled before.
class Sampler {
 public:
  /// \param captions whole prompt embeddings f32 [plan.caption_tokens, width]
  /// \param left by the sampler before, empty unless its memory was this one; what the sampler refers to must outlive
  /// it.
  Sampler(Context& ctx, const SamplerPlan& plan, const SamplerMemory& memory, std::span<const ConstView> captions,
          SamplerLeft& left);

  /// Called before each step. \return of each picture whether it is still wanted: the same on every rank.
  using Wanted = std::function<std::vector<bool>()>;
  /// Called for each step with its number, from 1, and the milliseconds of the last one that is done: on the CPU this
  /// one, on a GPU, where the host is one step ahead, the one before.
  using OnStep = std::function<void(int64_t step, double step_ms)>;

  /// latents <- the schedule's end, from noise; the ranks meet at the end, but for the exchanges of each layer.
  /// \param latents of each picture, f32 [channels, height, width], whole on every rank, in place; unspecified for one
  /// that is not wanted to the end. \throws Error cancelled, peer_failed
  void run(std::span<const View> latents, const Wanted& wanted, const OnStep& on_step);

  /// \return this rank's rows of a forward pass, the largest.
  int64_t rows() const;
  /// \return the time of each step.
  std::vector<Stopwatch> take_steps() { return std::move(steps_); }
  /// \return floating-point operations of the matrix products of one guided step, all ranks together.
  double step_flop() const;

 private:
  /// Enqueues a step by launching its recording, if there is one.
  void enqueue_step(int64_t step, const StepKind& kind);
  /// Makes the factors and the change of sigma of `step` those of the step under way.
  void select_step(int64_t step);
  /// Guides and moves the tokens, for the step under way.
  void finish_step(const StepKind& kind);
  /// Runs this half's part of what the halves of guidance compute beside each other; on its first run the halves of GPUs
  /// take turns, for what is loaded then must not be beside another half's exchanges (see NcclCommunicator).
  void run_half(bool is_first, const std::function<void()>& work);
  /// Gives the predictions of this rank's half to the other, so that both take the same step.
  void exchange_halves(const StepKind& kind);
  void guide(size_t picture);
  /// Waits, without blocking on the GPU, until at most one step is under way, and tells on_step.
  void keep_one_ahead(int64_t step, const OnStep& on_step);

  Context& ctx_;
  const SamplerPlan& plan_;
  const SamplerMemory& memory_;
  SamplerLeft& left_;
  std::vector<Stopwatch> steps_;
};

}  // namespace nostos
