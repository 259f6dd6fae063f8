// Owns one rank's part in a generation: text, noise, denoising, decoding.
#pragma once

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
#include "pipeline/rank_groups.h"
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
  /// \param progress called by rank 0 alone, but for `cancel`, which all watch.
  /// \return rank 0's has the pictures and what all ranks report.
  /// \throws Error invalid_input, out_of_memory, cancelled, peer_failed
  Generation draw(const ResolvedRequest& resolved, const Progress& progress);

 private:
  /// Refined captions f32 [padded tokens, hidden]; negative null without guidance.
  struct Captions {
    Tensor positive, negative;
  };

  bool is_root() const { return groups_.world().rank() == 0; }
  Tensor encode(const std::string& prompt, bool& truncated);
  Captions make_captions();
  Captions share_captions(Captions captions);
  void fill_noise(uint64_t seed, View latents);
  void denoise(const Captions& captions, const Progress& progress);
  void decode();
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
  const Progress* progress_ = nullptr;
  Generation result_;
  std::optional<Sampler> sampler_;                         // its memory is in use until the GPU is done
  std::vector<std::pair<std::string, Stopwatch>> stages_;  // what has been measured, in order
  std::vector<Tensor> states_;  // of each picture, f32 [channels, height, width] on this rank's device
};

}  // namespace nostos
