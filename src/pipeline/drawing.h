// Owns what the stages of one drawing share on one rank: requests and their results, the ranks that draw together, and
// the report in the making. What one stage makes for the next is not here: stages return it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device/arena.h"
#include "device/stopwatch.h"
#include "parallel/communicator.h"
#include "pipeline/generation.h"
#include "pipeline/parallelism.h"
#include "pipeline/rank.h"
#include "pipeline/rank_groups.h"
#include "pipeline/request.h"
#include "pipeline/step_orders.h"

namespace nostos {

/// An image's place in the results.
struct PicturePlace {
  size_t request = 0, index = 0;
};

class Drawing {
 public:
  /// \param requests which can be drawn together
  /// \param progress of each request
  Drawing(Rank& rank, Communicator& world, const Parallelism& parallelism, std::span<const ResolvedRequest> requests,
          std::span<const Progress> progress);

  Context& ctx() const { return rank.ctx; }
  ModelParts& parts() const { return rank.process.parts; }
  const Family& family() const { return parts().family(); }
  Communicator& world() const { return groups.world(); }
  bool is_root() const { return world().rank() == kRoot; }
  /// \return whether each part is loaded when its stage comes, and released after the stage.
  bool takes_turns() const { return parts().one_at_a_time(); }
  /// \return whether a control network has a say.
  bool has_control() const { return made.front().resolved.has_control(); }
  /// \return f32 [channels, height, width] of the drawn size.
  Shape latent_shape() const;

  const GenerationRequest& request_of(const PicturePlace& place) const { return made[place.request].resolved.request; }
  Picture& picture_at(const PicturePlace& place) { return made[place.request].pictures[place.index]; }
  /// \return whether somebody still waits for the image. The answer is the same on all ranks.
  bool is_wanted(const PicturePlace& place) const { return !made[place.request].cancelled; }

  /// On rank 0: tells each request's Progress that a stage begins.
  void enter_stage(const char* name) const;
  /// Runs `work` on the context `on`, and adds its time to a stage of the report.
  template <class Work>
  void timed(const char* stage, Context& on, const Work& work) {
    Stopwatch watch(on);
    work();
    watch.end(on);
    stages.emplace_back(stage, std::move(watch));
  }
  /// Where parts take turns: loads `parts` and releases all other parts, while the other ranks wait. The report has it
  /// as a stage.
  void turn_to(std::span<const size_t> parts);
  /// The same for a stage that has memory of its own. \param take is called as take(arena), first to measure
  /// \return what it returned
  template <class Take>
  auto turn_to(std::span<const size_t> parts, const Take& take) {
    turn_to(parts);
    Arena& memory = late.emplace(ctx().device());
    take(memory);
    const size_t bytes = memory.peak_bytes();
    report.arena_bytes = std::max(report.arena_bytes, bytes);
    memory = Arena(ctx().device(), bytes);
    return take(memory);
  }
  /// Runs `work`, which exchanges with the ranks. On a GPU the first run is followed by a recording, where recording is
  /// possible; later runs launch the recording.
  /// \param recorded is forgotten before the memory that `work` uses is given back
  template <class Work>
  void run_recorded(Graph& recorded, const Work& work) {
    if (recorded) return world().device().enqueue_together([&] { recorded.launch(ctx()); });
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
  /// Memory of the encoding or the decoding stage where parts take turns. It outlives what is under way when a drawing
  /// fails: to free it may wait for a GPU that waits for a peer.
  std::optional<Arena> late{};
  RunReport report{};
  std::vector<Stopwatch> steps{};                           ///< of each denoising step
  std::vector<std::pair<std::string, Stopwatch>> stages{};  ///< what has been measured, in order
};

}  // namespace nostos
