// Owns the small image that shows what a drawing is becoming. The denoising stage makes one Previewer for each batch;
// previews change nothing of the drawing.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "device/arena.h"
#include "device/context.h"
#include "families/family.h"
#include "io/image.h"
#include "pipeline/sampler.h"
#include "tensor/transfer.h"

namespace nostos {

/// The linear map that comes closest to a model's decoder. It leads from the channels of a latent pixel to the mean
/// colour of the pixels that the latent pixel stands for.
class LatentColors {
 public:
  /// Fits the map by least squares to what the decoder makes of one latent of noise. Takes memory, and waits for the
  /// device.
  LatentColors(Context& ctx, const Family& family);

  /// \param tokens f32 [height * width, patch * patch * channels] in host memory, as ops::patchify() makes them.
  /// \return an image of one pixel for each latent pixel: patch * height x patch * width.
  Image picture(ConstView tokens, int64_t height, int64_t width, int64_t patch) const;

 private:
  int64_t channels_;
  std::vector<float> factors_;  ///< [channels + 1, 3] to colours from -1 to 1; the last row is added
};

/// What a rank keeps of previews from one drawing to the next.
struct PreviewState {
  explicit PreviewState(Device device) : device(device) {}

  Landing& landing_of(size_t picture) {
    while (landings.size() <= picture) landings.emplace_back(device);
    return landings[picture];
  }

  Device device;
  std::deque<Landing> landings;  ///< of each picture of a batch
  std::optional<LatentColors> colors;
};

/// Memory of a drawing's previews on one rank.
struct PreviewMemory {
  View clean{};         ///< f32 [this rank's tokens, patch width]: the state without the noise that is left in it
  View clean_deltas{};  ///< f32 [steps, 1]: Schedule::clean_delta() of each step

  static PreviewMemory take(Arena& arena, int64_t patch_width, const SamplerPlan& plan);
};

/// Makes previews of what a sampler draws. A previewer changes nothing that the sampler reads, and never waits for a
/// GPU's own work.
class Previewer {
 public:
  using Deliver = std::function<void(const Image& picture)>;

  /// Every rank of a drawing makes one for each batch.
  /// \param sampler memory of the sampler's run
  /// \param state of this rank
  /// \param family null on every rank but rank 0, to which previews come. Rank 0's first previewer learns the colours
  /// from the decoder, and waits for the device.
  Previewer(Context& ctx, const SamplerPlan& plan, const SamplerMemory& sampler, const PreviewMemory& memory,
            PreviewState& state, const Family* family);

  /// Takes the clean image that a step predicts, x - sigma * v, and delivers the image as soon as it has arrived on the
  /// host: on a GPU in arrived(). Every rank calls it after the same steps, the last step excepted.
  /// \param picture the image's place in the batch
  /// \param step from 0
  /// \throws Error peer_failed
  void after_step(size_t picture, int64_t step, Deliver deliver);
  /// Delivers what was taken before the last step and has arrived, or is on the way behind work that is done.
  void arrived();

 private:
  struct Awaited {
    size_t picture;
    Deliver deliver;
  };

  Context& ctx_;
  const SamplerPlan& plan_;
  const SamplerMemory& sampler_;
  const PreviewMemory& memory_;
  PreviewState& state_;
  bool delivers_;
  std::vector<Awaited> awaited_;  // previews on their way
};

}  // namespace nostos
