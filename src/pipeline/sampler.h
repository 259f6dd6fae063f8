// Owns the denoising loop: flow-match Euler steps with classifier-free guidance. The denoising stage makes one Sampler
// for each batch. What depends on a model's family a Denoiser does (families/family.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
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
  float scale = 0;
  float normalization = 0;  ///< see GenerationRequest::cfg_normalization
  float truncation = 1;     ///< see GenerationRequest::cfg_truncation
  GuidanceForm form = GuidanceForm::from_positive;

  bool is_on() const { return guides(form, scale); }
  /// \return whether the step that begins once `elapsed` = 1 - sigma is behind is guided.
  bool applies_at(float elapsed) const { return is_on() && elapsed <= truncation; }
  friend bool operator==(const Guidance&, const Guidance&) = default;
};

/// The two prompts of an image, and so the two branches of guidance: conditional (positive) and unconditional
/// (negative). Without guidance there is no negative one.
enum Side : size_t { kPositive, kNegative };

/// One image of a batch.
struct PicturePlan {
  Guidance guidance{};
  std::array<size_t, 2> captions{};  ///< which of the prompt embeddings; the negative of no meaning without guidance

  friend bool operator==(const PicturePlan&, const PicturePlan&) = default;
};

/// What is known of the denoising of a batch on one rank before anything is computed.
struct SamplerPlan {
  nn::SequenceParallel share;  ///< this rank's share of a picture
  /// The two ranks that have the same share of the tokens, each of which computes one branch of guidance; null where
  /// this rank computes both branches.
  Communicator* halves = nullptr;
  Communicator* world = nullptr;  ///< of all ranks of the run; null where this one is alone
  Schedule schedule;
  std::vector<int64_t> caption_tokens{};     ///< rows of each prompt embedding
  std::vector<parallel::Grid> references{};  ///< the token grid of each reference image
  std::vector<PicturePlan> pictures{};
  std::vector<float> control_scales{};  ///< of each step; empty without a control image
  bool has_mask = false;                ///< whether a part of the images is known, see Sampler::know()
  bool passes_apart = false;            ///< see Batch
  int64_t first_step = 0;               ///< that is run, from 0: those before are done
  bool can_record = false;  ///< whether steps are recorded: as all ranks do, and not where weights are streamed

  int64_t steps() const { return static_cast<int64_t>(schedule.times.size()); }
  bool has_control() const { return !control_scales.empty(); }
  /// \return whether this rank computes the predictions of `side`.
  bool computes(Side side) const { return halves == nullptr || halves->rank() == static_cast<int>(side); }
  /// \return the rows of the passes of image `picture` on one rank, rounded up. All ranks get the same number.
  int64_t rows_of(size_t picture) const;
};

/// Memory of a batch. "Tokens" are this rank's tokens, unless the comment says otherwise.
struct SamplerMemory {
  struct Picture {
    View tokens{};                   ///< f32 [tokens, patch width]: the state, in token layout through the whole loop
    std::array<View, 2> velocity{};  ///< f32, likewise, of each side; negative null without guidance
    View clean{}, noise{};           ///< f32, likewise: what the known part is made of; null without a mask
  };
  std::vector<Picture> pictures{};
  std::unique_ptr<Denoiser> denoiser{};
  View deltas{};                               ///< f32 [1, steps, 1]: the change of sigma in each step
  View step_delta{};                           ///< f32 [1, 1, 1]: of the step under way
  View mask{};                                 ///< f32 [tokens, patch width]: what is not known; null without a mask
  View levels{}, step_level{};                 ///< likewise, as deltas: the noise level that each step ends with
  View token_squares{};                        ///< f64 [tokens, 2] of ops::guide(); null without a cap of the norm
  View all_tokens{}, all_squares{};            ///< of all ranks, of one picture after the other
  View gathered_tokens{}, gathered_squares{};  ///< room to gather them

  /// Takes all memory but what take_scratch() takes.
  /// \param plan outlives the memory
  static SamplerMemory take(Arena& arena, const Family& family, const SamplerPlan& plan);
  /// Takes memory whose contents need not last from one run to the next.
  void take_scratch(Arena& arena, const SamplerPlan& plan);
};

/// Scales `velocity` down so that its norm over the whole image is at most `ratio` times the norm of the positive
/// prediction. Every rank adds the sums of all tokens (memory.token_squares) in the order of the image, so the result
/// does not depend on how tokens are dealt.
/// \param velocity f32, this rank's tokens
void cap_norm(Context& ctx, const nn::SequenceParallel& share, const SamplerMemory& memory, float ratio, View velocity);

/// What a step does with an image, by the number of passes. `none`: nobody wants the image any more.
enum class Prediction : uint8_t { none, plain, guided };
/// What a step does.
struct StepKind {
  std::vector<Prediction> pictures{};  ///< with each image of a batch
  bool is_controlled = false;          ///< whether the control image has a say

  friend auto operator<=>(const StepKind&, const StepKind&) = default;
};

/// What a sampler leaves in its memory for the next sampler that has the same plan and the same memory.
struct SamplerLeft {
  std::vector<int64_t> caption_tokens{};     ///< whose plan it was
  std::vector<parallel::Grid> references{};  ///< likewise
  std::vector<PicturePlan> pictures{};
  bool has_mask = false, has_control = false;  ///< likewise
  bool has_positions = false;                  ///< the rotary tables are filled
  std::map<StepKind, Graph> steps{};           ///< recorded where it can be; of the first kMostSteps kinds

  static constexpr size_t kMostSteps = 8;  ///< a client that cancels some of many pictures makes other kinds
};

/// What the passes of all steps read.
struct SamplerInputs {
  std::span<const ConstView> captions;  ///< whole prompt embeddings f32 [plan.caption_tokens, width]
  ConstView references{};               ///< f32 [tokens of all reference images, patch width], whole; null without
  ConstView condition{};                ///< of Family::to_condition(), whole; null without a control image
};

/// Denoises a batch of images of one size, step by step, on one rank or as one of many. Each image has the bits that it
/// would have alone. A sampler neither allocates GPU memory nor waits for the GPU.
///
/// On a GPU, if the plan says so, each kind of step is recorded after it ran once, while the GPU works. Later steps
/// launch the recording. What changes from step to step stands in fixed places, which the host fills before each step.
class Sampler {
 public:
  /// \param left what the sampler before has left; empty if that sampler had other memory. All that a sampler is given
  /// by reference must outlive it.
  Sampler(Context& ctx, const SamplerPlan& plan, const SamplerMemory& memory, const SamplerInputs& inputs,
          SamplerLeft& left);

  /// Says what is known of image `picture`: of its latents all that the mask leaves out. After each step the known
  /// part is the clean latents with the noise of the step's end. Needs SamplerPlan::has_mask, for each image.
  /// \param clean, noise f32 [channels, height, width], whole on every rank; they are copied
  /// \param mask f32 [tokens, patch width], whole
  void know(size_t picture, ConstView clean, ConstView noise, ConstView mask);

  /// Called before each step, with the same result on every rank.
  /// \return of each image whether it is still wanted; nothing: the run ends here, and goes on elsewhere
  using Wanted = std::function<std::optional<std::vector<bool>>()>;
  /// Called for each step with the step's number, from 1, and the milliseconds of the last step that is done. On the
  /// CPU that is this step. On a GPU it is the step before, because the host is one step ahead.
  using OnStep = std::function<void(int64_t step, double step_ms)>;
  /// Called for each image of a step, from 1, with the velocity after guidance, which it may change.
  using OnVelocity = std::function<void(size_t picture, int64_t step, View velocity)>;

  /// Has the velocities of run() seen. Steps must not be recorded.
  void watch(OnVelocity on_velocity) { on_velocity_ = std::move(on_velocity); }

  /// latents <- the state at the schedule's end, or where `wanted` has ended the run. Beside the exchanges of each
  /// layer, the ranks meet at the end alone.
  /// \param latents of each image, f32 [channels, height, width], whole on every rank: first the state before the
  /// plan's first step, then the result. Unspecified for an image that is not wanted to the end.
  /// \throws Error cancelled, peer_failed
  void run(std::span<const View> latents, const Wanted& wanted, const OnStep& on_step);

  /// \return this rank's rows of the largest forward pass.
  int64_t rows() const;
  /// \return the time of each step.
  std::vector<Stopwatch> take_steps() { return std::move(steps_); }
  /// \return floating-point operations of the matrix products of one guided step, of all ranks together.
  double step_flop() const;

 private:
  /// Enqueues a step, by launching the step's recording if there is one.
  void enqueue_step(int64_t step, const StepKind& kind);
  /// Makes `step` the step under way: its factors and its change of sigma.
  void select_step(int64_t step);
  /// Applies guidance and moves the tokens, for the step under way. \param step its number, from 0
  void finish_step(int64_t step, const StepKind& kind);
  /// Runs what this rank's branch of guidance computes beside the other branch. On the first run the branches on GPUs
  /// take turns, because kernels are loaded then, which must not happen beside another rank's exchanges (see
  /// NcclCommunicator).
  void run_half(bool is_first, const std::function<void()>& work);
  /// Exchanges the predictions of the two branches, so that both ranks take the same step.
  void exchange_halves(const StepKind& kind);
  void guide(size_t picture);
  /// tokens <- this rank's tokens of an image.
  void cut(ConstView latents, View tokens);
  /// Waits, without blocking on the GPU, until at most one step is under way. Then calls on_step.
  void keep_one_ahead(int64_t step, const OnStep& on_step);

  Context& ctx_;
  const SamplerPlan& plan_;
  const SamplerMemory& memory_;
  SamplerLeft& left_;
  OnVelocity on_velocity_;
  std::vector<Stopwatch> steps_;
};

}  // namespace nostos
