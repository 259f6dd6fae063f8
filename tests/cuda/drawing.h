// Owns what tests of whole drawings on the GPU share: where the data lies, and ranks that share one loaded model.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/golden.h"
#include "parallel/nccl_communicator.h"
#include "pipeline/draw.h"

namespace nostos::test {

/// \return the root of the repository: the environment's NOSTOS_SOURCE_DIR, for a program that was carried to another
/// machine, otherwise where it was built.
std::filesystem::path source_dir();

/// \return models/NAME
std::filesystem::path model_dir(const std::string& name);

/// \return the embedded model with its golden files.
GoldenModel embedded_model_here();

GenerationRequest beach(int64_t height, int64_t width, int64_t steps, double guidance);

/// A model on GPU 0 that any number of ranks, one after the other, draw with. Contexts outlive a drawing, so that each
/// rank tunes a shape once.
class SharedModel {
 public:
  SharedModel(const std::filesystem::path& folder, bool synthetic, DType dtype);

  /// Draws on threads that share the GPU, as Engine does.
  Generation draw(const GenerationRequest& request, const Parallelism& parallelism = {});
  /// The same for requests that are drawn together.
  std::vector<Generation> draw(std::span<const GenerationRequest> requests, const Parallelism& parallelism = {});
  /// Draws on threads that share the GPU as those with a GPU each do, over NcclCommunicator and PeerMemory: steps are
  /// recorded, kernels write into other ranks' memory, and streams meet on the GPU. At least two ranks.
  Generation draw_meeting_on_the_gpu(const GenerationRequest& request, const Parallelism& parallelism);

 private:
  /// \param connect called by every rank with the hosts' communicator: the GPUs' own, or null
  std::vector<Generation> draw(std::span<const GenerationRequest> requests, const Parallelism& parallelism,
                               const std::function<std::unique_ptr<NcclCommunicator>(Communicator& hosts)>& connect);

  Context process_;
  ModelParts parts_;
  Rank alone_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

/// Expects the same latents and the same pixels.
void expect_same(const Generation& wanted, const Generation& got, const std::string& what);

/// \return the cosine of the angle between two float32 tensors of as many elements.
double cosine(ConstView a, ConstView b);

}  // namespace nostos::test
