// Owns the small picture that shows what a drawing is becoming while it is drawn.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "device/arena.h"
#include "device/context.h"
#include "io/image.h"
#include "models/autoencoder_kl/autoencoder.h"
#include "pipeline/sampler.h"
#include "tensor/landing.h"

namespace nostos {

/// The linear map that comes closest to a VAE's decoder: from the channels of a latent pixel to the mean colour of the
/// pixels that it stands for.
class LatentColors {
 public:
  /// Least squares over what the decoder makes of one latent of noise. Takes memory, and waits for the device.
  LatentColors(Context& ctx, const autoencoder_kl::Autoencoder& vae);

  /// \param tokens f32 [height * width, patch * patch * channels] in host memory, as ops::patchify() makes them.
  /// \return a picture of one pixel a latent pixel: patch * height x patch * width.
  Image picture(ConstView tokens, int64_t height, int64_t width, int64_t patch) const;

 private:
  int64_t channels_;
  std::vector<float> factors_;  ///< [channels + 1, 3] to colours from -1 to 1; the last row is added
};

/// Memory of a drawing's previews on one rank.
struct PreviewMemory {
  View clean{};           ///< f32 [this rank's tokens, patch width]: the state without the noise that is left in it
  View negated_sigmas{};  ///< f32 [steps, 1]: of the noise that each step leaves, times -1

  static PreviewMemory take(Arena& arena, const zimage::Config& config, const SamplerPlan& plan);
};

/// Makes previews of what a sampler draws, of which it changes nothing. Never waits for a GPU's own work.
class Previewer {
 public:
  using Deliver = std::function<void(const Image& picture)>;

  /// Every rank of a drawing makes one for each batch. \param sampler, memory of the sampler's run. \param vae for the
  /// colours. \param delivers whether pictures come to this rank, 0, whose context keeps the colours: its first previewer
  /// learns them, and waits for the device.
  Previewer(Context& ctx, const SamplerPlan& plan, const SamplerMemory& sampler, const PreviewMemory& memory,
            const std::function<const autoencoder_kl::Autoencoder&()>& vae, bool delivers);

  /// Every rank calls it after the same steps but the last: takes the clean picture that the step predicts, x - sigma * v,
  /// and delivers it as soon as it has come home: on a GPU in arrived(). \param picture its place in the batch. \param step
  /// from 0. \throws Error peer_failed
  void after_step(size_t picture, int64_t step, Deliver deliver);
  /// Delivers what was taken before the last step and has come, or is on the way behind work that is done.
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
  bool delivers_;
  std::vector<Awaited> awaited_;  // previews on their way
};

}  // namespace nostos
