// Implements the initial latents.
#include "pipeline/initial_state.h"

#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "io/safetensors.h"
#include "ops/noise.h"
#include "pipeline/batch.h"
#include "pipeline/noise.h"
#include "tensor/finite.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// Fills `latents` from the file that the request names. \param latents f32 [channels, height, width]
void read_latents(const std::filesystem::path& path, View latents) {
  const SafetensorsFile file(path);
  const ConstView given = file.tensor("latents");
  const Shape& shape = latents.shape();
  const Shape wanted{1, shape[0], shape[1], shape[2]};
  require(given.dtype() == DType::f32 && given.shape() == wanted, ErrorKind::invalid_input,
          "{}: tensor 'latents' is {} {}, this size wants F32 {}", path.string(), name(given.dtype()),
          to_string(given.shape()), to_string(wanted));
  require(is_finite(given), ErrorKind::invalid_input, "{}: tensor 'latents' has values that are no numbers",
          path.string());
  std::memcpy(latents.bytes(), given.bytes(), given.size_in_bytes());
}

}  // namespace

void fill_initial_state(Drawing& drawing, const PicturePlace& place, View host, View state) {
  const GenerationRequest& request = drawing.request_of(place);
  const uint64_t seed = drawing.picture_at(place).seed;
  if (request.latents.empty() && request.rng == RngKind::torch_cuda)
    return ops::philox_normal(drawing.ctx(), seed, state);
  if (drawing.is_root()) {
    for_request(place.request, drawing.made.size(), [&] {
      if (request.latents.empty())
        fill_torch_cpu_normal(seed, {host.data<float>(), static_cast<size_t>(host.elements())});
      else
        read_latents(request.latents, host);
    });
  }
  drawing.world().broadcast({host.bytes(), host.size_in_bytes(), Device{}}, kRoot).wait();
  upload(drawing.ctx(), host, state);
}

}  // namespace nostos
