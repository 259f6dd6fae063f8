// Owns a loaded model, and turns requests into images. This is the library's front: programs make one Engine and call
// generate(), or draw() where requests have ranks of their own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "device/device.h"
#include "families/model_files.h"
#include "ops/linear.h"
#include "parallel/communicator.h"
#include "pipeline/adapters.h"
#include "pipeline/generation.h"
#include "pipeline/lane.h"
#include "pipeline/memory_plan.h"
#include "pipeline/parallelism.h"
#include "pipeline/request.h"

namespace nostos {

/// Reads the shape of a model that is not loaded: of its configs alone, to plan and check requests by. \throws Error
/// model naming file and field
ModelShape read_model_shape(const ModelFiles& files);

/// The arithmetic of weights and matrix products. Sums and the residual stream are float32 in either.
enum class Precision {
  automatic,
  f32,
  bf16,
  int8,  ///< products of the transformer's blocks; the rest as with automatic
};

struct EngineOptions {
  ModelFiles model;        ///< where it is
  std::string variant;     ///< of the weights, e.g. "fp16"; "": the plain ones or, without these, the only variant
  bool synthetic = false;  ///< random weights of the configs' shapes, made in memory
  std::string synthetic_format;    ///< of their matrices, e.g. "q4_k", see synthetic_format_of(); "": bf16
  bool synthetic_hostile = false;  ///< whether they have the outliers of trained weights, see SyntheticKind
  Device device;
  /// Whether ranks have a device each. Then thread rank r has the r-th device from `device` on and a copy of the model,
  /// and GPUs are connected by NCCL. Otherwise all ranks of this process share `device` and the model.
  bool device_per_rank = false;
  Precision precision = Precision::automatic;
  Precision text_precision = Precision::automatic;       ///< of the text encoder's blocks: int8, or as the rest
  Precision attention_precision = Precision::automatic;  ///< of the transformer's scores: int8, or as the products
  std::optional<std::set<std::string>> kept_products{};  ///< what int8 leaves as it is: see FamilyOptions
  /// Sees the inputs of products that int8 would round, see FamilyOptions. Drawings then need a Progress::on_velocity.
  std::shared_ptr<const InputWatch> input_watch{};
  std::filesystem::path cache_folder;  ///< where what trials find out is kept for the next process; "": nowhere
  int threads = 0;                     ///< CPU threads of the process, shared by its ranks; 0: all that it may use
  MemoryOptions memory;
  Parallelism parallelism;
  bool lanes = false;             ///< whether any rank may be a lane's root: then each device has the text encoder, too
  double comm_timeout_s = 0;      ///< see CommunicatorOptions
  bool peer_memory = true;        ///< likewise
  size_t kept_caption_bytes = 0;  ///< of captions that are not encoded again when they come again; rank 0's host memory
  std::shared_ptr<FileHashes>
      file_hashes{};  ///< of adapters' files, where somebody has hashed some; null: the engine's
};

/// A model that is ready to draw. One thread at a time uses an engine, but for draw() and what is const. An engine must
/// end before main() does: after main() CUDA's libraries may have ended, and memory on a GPU can no longer be given
/// back.
class Engine {
 public:
  /// Reads configs and tokenizer, and checks every weight. Loads the weights now if options.memory settles already
  /// where they go.
  /// \throws Error model (file, tensor or field named), device, out_of_memory, invalid_input if `processes` are not as
  /// many as the ranks, or attention is to be rounded around a ring
  /// \param processes null: all ranks are threads of this process, which live as long as a generate(). Otherwise this
  /// process is one rank of that world, the communicator outlives the engine, and every process makes the same calls.
  explicit Engine(const EngineOptions& options, Communicator* processes = nullptr);
  ~Engine();

  const ModelLimits& limits() const;
  /// \return "f32" or "bf16": what the matrix products run in.
  const char* precision_name() const;

  /// \return GFLOP/s of this process's devices in matrix products of `rows` rows with a weight of the transformer's
  /// FFN. The transformer's own rate is compared with this ceiling. The first device is measured.
  double measure_matmul_gflops(int64_t rows);

  /// Draws one request. The bits are the same on any number of ranks, but for a ring, which rounds differently.
  /// \return the images, on rank 0 alone.
  /// \throws Error invalid_input, out_of_memory, cancelled, peer_failed, device_lost
  Generation generate(const GenerationRequest& request, const Progress& progress = {});

  /// Draws requests together, which is faster than one after the other where images are small. Each image has the bits
  /// that it would have alone. takes_together() says which requests can be drawn together.
  /// \param progress of each request, or nothing. A request whose `cancel` is set is given up within a step while the
  /// others go on; the result of the request says `cancelled`.
  /// \return the generation of each request, in order.
  /// \throws Error as above, for all requests together, naming the request that is to blame; cancelled once all
  /// requests are
  std::vector<Generation> generate(std::span<const GenerationRequest> requests,
                                   std::span<const Progress> progress = {});

  /// \return how many ranks this process has. Each has a place, from 0 on, and draws in one lane at a time.
  int places() const;
  /// \return the places whose GPU is lost to this process, until it is started again. Any thread may ask, e.g. after
  /// draw() has thrown Error device_lost: then the lane's other places can draw on.
  std::vector<int> lost_places() const;

  /// Draws requests together on some ranks of this process, as generate() does on all: the bits are the same, whichever
  /// ranks draw and however they change on the way. Lanes without a common place draw at once, on a thread each that
  /// calls this; on GPUs of their own nothing makes them wait for each other. Ranks that share a model wait for those
  /// with other adapters. A lane's ranks share heads and tokens without a ring (Lane::halves apart), whatever
  /// EngineOptions::parallelism says. Progress is called on the calling thread.
  /// \param change of the lane between steps; RunReport::lanes says what came of it
  /// \throws Error as generate(); invalid_input for a lane that cannot be. All places of the drawing are free then
  std::vector<Generation> draw(std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                               const Lane& lane, const LaneChange& change = {});

  /// \return what reads adapter files for this model. Any thread may use it while the engine draws, and after the
  /// engine has ended; what it has read, the engine does not read again.
  std::shared_ptr<AdapterFiles> adapter_files() const;

  /// \return how many images like the request's one forward pass takes (see batch_plan()), at least 1. More images
  /// would only wait for each other.
  /// \throws Error invalid_input
  int64_t pictures_at_once(const GenerationRequest& request) const;
  /// The same on a lane.
  int64_t pictures_at_once(const GenerationRequest& request, const Lane& lane) const;

  /// \return whether generate() takes both requests in one list: neither request is refused, and one drawing can serve
  /// both.
  bool takes_together(const GenerationRequest& a, const GenerationRequest& b) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nostos
