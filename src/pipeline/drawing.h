// Owns what the stages of one drawing share on one rank: requests and their results, the ranks that draw together, and the
// report in the making.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device/stopwatch.h"
#include "parallel/communicator.h"
#include "pipeline/generation.h"
#include "pipeline/parallelism.h"
#include "pipeline/rank.h"
#include "pipeline/rank_groups.h"
#include "pipeline/request.h"
#include "pipeline/step_orders.h"

namespace nostos {

inline constexpr int kRoot = 0;  ///< the rank that makes what comes from the host, and gets the pictures

/// A picture's place in the results.
struct PicturePlace {
  size_t request = 0, index = 0;
};

class Drawing {
 public:
  /// \param requests which can be drawn together \param progress of each
  Drawing(Rank& rank, Communicator& world, const Parallelism& parallelism, std::span<const ResolvedRequest> requests,
          std::span<const Progress> progress);

  Context& ctx() const { return rank.ctx; }
  ModelParts& parts() const { return rank.process.parts; }
  const Family& family() const { return parts().family(); }
  Communicator& world() const { return groups.world(); }
  bool is_root() const { return world().rank() == kRoot; }
  /// \return whether parts are loaded when their stage comes and released after.
  bool takes_turns() const { return parts().one_at_a_time(); }
  /// \return f32 [channels, height, width] of the drawn size.
  Shape latent_shape() const;

  const GenerationRequest& request_of(const PicturePlace& place) const { return made[place.request].resolved.request; }
  Picture& picture_at(const PicturePlace& place) { return made[place.request].pictures[place.index]; }
  /// \return whether somebody still waits for the picture, the same on all ranks.
  bool is_wanted(const PicturePlace& place) const { return !made[place.request].cancelled; }

  /// On rank 0: tells those who follow that a stage begins.
  void enter_stage(const char* name) const;
  /// Runs `work`, which works on `on`, as part of a stage of the report.
  template <class Work>
  void timed(const char* stage, Context& on, const Work& work) {
    Stopwatch watch(on);
    work();
    watch.end(on);
    stages.emplace_back(stage, std::move(watch));
  }
  /// Where parts take turns: loads `parts`, and releases all others, as a stage of its own, while the other ranks wait.
  void turn_to(std::span<const size_t> parts);
  /// Runs `work`, which exchanges with the ranks, on a GPU the second time and later by launching what was recorded after
  /// the first, if that can be. \param recorded is forgotten before the memory that `work` is on.
  template <class Work>
  void run_recorded(Graph& recorded, const Work& work) {
    if (recorded) return world().enqueue_together([&] { recorded.launch(ctx()); });
    work();
    if (can_record && !parts().draws_once()) recorded = Graph::record(ctx(), work);
  }

  Rank& rank;
  Parallelism parallelism;
  RankGroups groups;
  std::span<const Progress> progress;
  std::vector<Generation> made;  ///< of each request
  StepOrders orders;
  bool can_record = false;  ///< whether steps and decodes are recorded: the same on every rank
  RunReport report{};
  std::vector<Stopwatch> steps{};                           ///< of each denoising step
  std::vector<std::pair<std::string, Stopwatch>> stages{};  ///< what has been measured, in order
};

}  // namespace nostos
