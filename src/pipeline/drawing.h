// Owns what the stages of one drawing share on one rank: requests and their results, the ranks that draw together, and
// the report in the making. What one stage makes for the next is not here: stages return it.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device/arena.h"
#include "device/stopwatch.h"
#include "parallel/communicator.h"
#include "pipeline/generation.h"
#include "pipeline/lane.h"
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

struct HandOver;

/// What the ranks of one lane draw: a whole drawing, or a drawing from one change of its lane to the next. The same on
/// all ranks, and outlives what is made of it.
struct Stretch {
  std::span<const ResolvedRequest> requests;  ///< which can be drawn together
  std::span<const Progress> progress;         ///< of each request
  Parallelism parallelism{};
  Lane lane{};  ///< of these ranks, in their order
  StepOrders::HandsOver hands_over{};
  const HandOver* from = nullptr;  ///< of the lane before; null where the drawing begins
};

class Drawing {
 public:
  Drawing(Rank& rank, Communicator& world, const Stretch& stretch);

  Context& ctx() const { return rank.ctx; }
  ModelParts& parts() const { return rank.process.parts; }
  const Family& family() const { return parts().family(); }
  Communicator& world() const { return groups.world(); }
  bool is_root() const { return world().rank() == kRoot; }
  /// \return whether this rank loads and releases the parts that it draws with.
  bool leads() const { return rank.leads(world()); }
  /// \return whether each part is loaded when its stage comes, and released after the stage.
  bool takes_turns() const { return parts().one_at_a_time(); }
  /// \return whether a control network has a say.
  bool has_control() const { return made.front().resolved.has_control(); }
  /// \return f32 [channels, height, width] of the drawn size.
  Shape latent_shape() const;

  const GenerationRequest& request_of(const PicturePlace& place) const { return made[place.request].resolved.request; }
  Picture& picture_at(const PicturePlace& place) { return made[place.request].pictures[place.index]; }
  /// \return denoising steps of each image.
  int64_t steps_of_image() const { return made.front().resolved.steps(); }
  /// \return whether somebody still waits for the image. The answer is the same on all ranks.
  bool is_wanted(const PicturePlace& place) const { return !made[place.request].cancelled; }

  /// \return whether another lane draws on, and this one has nothing to do but to hand over. The same on all ranks.
  bool is_left() const { return left_steps != std::chrono::steady_clock::time_point(); }

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
  const Stretch& stretch;
  const Parallelism& parallelism;
  RankGroups groups;
  std::span<const Progress> progress;
  std::vector<Generation> made;     ///< of each request
  std::vector<int64_t> steps_done;  ///< of each image, in the order of the requests
  StepOrders orders;
  std::chrono::steady_clock::time_point left_steps{};  ///< when they were done, where is_left()
  bool can_record = false;  ///< whether steps and decodes are recorded: the same on every rank
  /// Memory of the encoding or the decoding stage where parts take turns. It outlives what is under way when a drawing
  /// fails: to free it may wait for a GPU that waits for a peer.
  std::optional<Arena> late{};
  RunReport report{};
  std::vector<Stopwatch> steps{};                           ///< of each denoising step
  std::vector<std::pair<std::string, Stopwatch>> stages{};  ///< what has been measured, in order
};

}  // namespace nostos
