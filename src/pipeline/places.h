// Owns the ranks of a process, each at a place of its own: their devices, the model on them, which lanes hold which
// places, and the links of the lanes that have drawn. Engine has one.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/nccl_communicator.h"
#include "pipeline/engine.h"
#include "pipeline/model_parts.h"
#include "pipeline/rank.h"

namespace nostos {

/// A device with the model on it.
struct LoadedModel {
  /// \param sharers ranks that draw with it.
  LoadedModel(const EngineOptions& options, Device device, int threads, int64_t sharers);

  Context ctx;
  DType dtype;
  ModelParts parts;
};

/// Any thread may call what it has; each place is held by one drawing at a time. A process of a launcher has one place,
/// whose lane are all processes.
class Places {
 public:
  using List = std::vector<int>;

  /// Loads the model, on all devices side by side. \throws Error as Engine
  Places(const EngineOptions& options, Communicator* processes);
  ~Places();

  int count() const { return static_cast<int>(ranks_.size()); }
  /// \return the model of the first place.
  LoadedModel& model() { return *models_.front(); }
  const LoadedModel& model() const { return *models_.front(); }
  /// \return devices with a model of their own.
  size_t devices() const { return models_.size(); }
  /// \return those whose GPU is lost to this process.
  List lost() const;
  /// Has `files` read adapters for all models.
  void read_adapters_by(const std::shared_ptr<AdapterFiles>& files);

  /// A drawing's hold of places, from its begin to its end, or to the change that gives them away.
  class Hold {
   public:
    /// Waits, where places share a model, until that model can be drawn with beside what draws now: drawings at once
    /// have the same adapters, and where parts take turns there is one.
    /// \throws Error invalid_input for places that are not there, come twice, or are another drawing's
    Hold(Places& places, const List& wanted, const std::vector<AdapterUse>& adapters);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    /// Holds those of `wanted`, too. \throws Error invalid_input likewise; then it holds what it held
    void add(const List& wanted);
    /// Gives away all but `kept`.
    void keep(const List& kept);

   private:
    Places& places_;
    List held_;
  };

  /// Runs `body` on the ranks of a lane that is held, with what connects them. Where the lane is new its GPUs are
  /// connected first. \throws what the first failing rank threw
  void run(const List& lane, const std::function<void(Rank& rank, Communicator& world)>& body);
  /// After a run that failed, maybe on some ranks alone: the next one connects the lane's GPUs anew.
  void disconnect(const List& lane) noexcept;

  static constexpr size_t kKeptLinks =
      16;  ///< of lanes, at least while those used the longest time ago have no drawing

 private:
  /// What connects the GPUs of a lane.
  struct Link {
    std::vector<std::unique_ptr<NcclCommunicator>> gpus;  // of each rank; null: not connected yet
    uint64_t last_use = 0;
  };
  enum class Use : uint8_t {
    none,
    drawing,
    ending,  ///< of a link
  };

  void make_rank(size_t place, std::unique_ptr<Context> own_context);
  void load(Communicator& host);
  void require_lane(const List& places) const;
  void take(const List& wanted);
  void give_back(const List& held);
  void begin_drawing(const std::vector<AdapterUse>& adapters);
  void end_drawing();

  Link* link_of(const List& lane);
  Communicator& connected(Link& link, size_t index, Communicator& host, Rank& rank) const;
  /// Ends the link that was not used for the longest time, if there are too many and its places have no drawing.
  void end_oldest_link(const List& own);
  void end(const List& lane, Link& link) noexcept;
  int share_of_threads(size_t place, size_t sharers) const;

  const EngineOptions& options_;
  Communicator* processes_;
  int threads_;
  bool has_gpu_each_;                                 // whether ranks are connected by their GPUs
  KeptCaptions captions_;                             // of all lanes
  std::vector<std::unique_ptr<LoadedModel>> models_;  // one, or one a place
  std::vector<std::unique_ptr<Context>> whole_;       // of a place that shares the model: with all threads
  std::vector<std::unique_ptr<Rank>> ranks_;          // one a place

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::vector<Use> uses_;  // of each place
  std::map<List, Link> links_;
  uint64_t link_uses_ = 0;
  // Of the shared model: drawings come to it in turn.
  int64_t drawings_ = 0;
  bool is_alone_ = false;
  uint64_t next_turn_ = 0, turn_ = 0;
};

}  // namespace nostos
