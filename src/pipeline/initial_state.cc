// Implements the initial latents.
#include "pipeline/initial_state.h"

#include <cstring>
#include <variant>

#include "base/error.h"
#include "ops/noise.h"
#include "pipeline/batch.h"
#include "pipeline/noise.h"
#include "tensor/transfer.h"

namespace nostos {

void fill_initial_state(Drawing& drawing, const PicturePlace& place, View host, View state) {
  const GenerationRequest& request = drawing.request_of(place);
  const uint64_t seed = drawing.picture_at(place).seed;
  const Latents* const given = std::get_if<Latents>(&request.start);
  if (given == nullptr && request.rng == RngKind::torch_cuda) return ops::philox_normal(drawing.ctx(), seed, state);
  if (drawing.is_root()) {
    for_request(place.request, drawing.made.size(), [&] {
      if (given == nullptr)
        return fill_torch_cpu_normal(seed, {host.data<float>(), static_cast<size_t>(host.elements())});
      require(given->values != nullptr, ErrorKind::invalid_input, "{}: its latents were not read", given->file);
      check(given->values->view().size_in_bytes() == host.size_in_bytes(), "latents have the drawn size");
      std::memcpy(host.bytes(), given->values->view().bytes(), host.size_in_bytes());
    });
  }
  drawing.world().broadcast({host.bytes(), host.size_in_bytes(), Device{}}, kRoot).wait();
  upload(drawing.ctx(), host, state);
}

}  // namespace nostos
