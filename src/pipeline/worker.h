// Owns one rank's part in a generation: text, noise, denoising, decoding.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "device/context.h"
#include "device/stopwatch.h"
#include "parallel/communicator.h"
#include "pipeline/generation.h"
#include "pipeline/model_parts.h"
#include "pipeline/parallelism.h"
#include "pipeline/preview.h"
#include "pipeline/rank_groups.h"
#include "pipeline/rank_memory.h"
#include "pipeline/request.h"
#include "pipeline/sampler.h"

namespace nostos {

/// What a rank needs of its process, which it may share with others.
struct WorkerProcess {
  Context& ctx;       ///< with all the process's threads: for what one rank does while the others wait
  ModelParts& parts;  ///< shared; loaded and released by the leader while the others wait
  bool release_parts = false;
};

class Worker {
 public:
  /// \param ctx this rank's, the process's own or one beside it. \param leads whether this rank is the one of its
  /// process that loads the model.
  Worker(Context& ctx, Communicator& world, const Parallelism& parallelism, WorkerProcess process, bool leads);

  /// Every rank of the world calls it with the same request.
  /// \param progress called by rank 0 alone, and its `cancel_together` too; `cancel` all watch.
  /// \return rank 0's has the pictures and what all ranks report.
  /// \throws Error invalid_input, out_of_memory, cancelled, peer_failed
  Generation draw(const ResolvedRequest& resolved, const Progress& progress);

 private:
  struct DecoderViews {
    View decoded;    ///< f32 [this rank's rows, width, 3]
    View quantized;  ///< u8, likewise
    autoencoder_kl::Scratch scratch;
  };
  /// A drawing's memory on this rank's device.
  struct Views {
    std::array<View, 2> captions;  ///< refined, f32 [padded tokens, hidden]; negative null without guidance
    std::vector<View> states;      ///< of each picture, f32 [channels, height, width]
    SamplerMemory sampler;
    PreviewMemory preview;
    std::array<View, 2> features;  ///< f32 [tokens, encoder's hidden]; these and what makes captions on rank 0 alone
    std::array<qwen3::Scratch, 2> encoder;
    std::array<zimage::RefineScratch, 2> refiner;
    DecoderViews decoder;
  };

  bool is_root() const { return groups_.world().rank() == 0; }
  /// \return f32 [channels, height, width] of the drawn size.
  Shape latent_shape() const;
  PromptTokens tokenize(const std::string& prompt) const;
  /// Finds out what this drawing takes, and lays its memory out.
  void plan();
  Views take_views(Arena& arena) const;
  void take_text_views(Arena& arena, Views& views) const;
  /// The VAE, which says what it needs, must be loaded: with release_parts it is when its stage comes, not before.
  DecoderViews take_decoder_views(Arena& arena) const;
  void make_captions();
  void fill_noise(uint64_t seed, View latents);
  void denoise();
  void decode();
  /// Brings a picture's rows home to rank 0.
  void gather_picture(ConstView own_pixels, Picture& picture);
  void report_times();
  void report_ranks();
  /// Runs `work`, which works on ctx, as part of a stage of the report.
  template <class Work>
  void timed(const char* stage, Context& ctx, const Work& work);
  /// Runs `load` on the process's leader, as a stage of its own, while the other ranks wait.
  template <class Load>
  void load(const Load& load);
  void enter_stage(const char* name);

  Context& ctx_;
  WorkerProcess process_;
  bool leads_;
  Parallelism parallelism_;
  RankGroups groups_;
  RankMemory& memory_;
  const Progress* progress_ = nullptr;
  Generation result_;
  std::array<PromptTokens, 2> prompts_;  // on rank 0
  std::optional<SamplerPlan> plan_;
  Views views_;
  std::optional<Sampler> sampler_;
  std::vector<std::pair<std::string, Stopwatch>> stages_;  // what has been measured, in order
};

}  // namespace nostos
