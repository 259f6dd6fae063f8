// Implements the initial latents.
#include "pipeline/initial_state.h"

#include <cstring>
#include <variant>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/noise.h"
#include "pipeline/batch.h"
#include "pipeline/noise.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// The draws from the generator of one image, in order.
class Draws {
 public:
  /// \param host room for what the host makes
  Draws(Drawing& drawing, const PicturePlace& place, View host)
      : drawing_(drawing),
        host_(host),
        kind_(drawing.request_of(place).rng),
        seed_(drawing.picture_at(place).seed),
        generator_(seed_) {}

  /// out <- the next draw, on every rank. \param out f32, of the host's shape, on the device
  void draw(View out) {
    if (kind_ == RngKind::torch_cuda) {
      ops::philox_normal(drawing_.ctx(), seed_, out, offset_);
      offset_ += ops::philox_advance(out.elements());
      return;
    }
    if (drawing_.is_root()) generator_.normal({host_.data<float>(), static_cast<size_t>(host_.elements())});
    drawing_.world().broadcast({host_.bytes(), host_.size_in_bytes(), Device{}}, kRoot).wait();
    upload(drawing_.ctx(), host_, out);
  }

 private:
  Drawing& drawing_;
  View host_;
  RngKind kind_;
  uint64_t seed_;
  TorchCpuGenerator generator_;
  uint64_t offset_ = 0;  // of the GPU's generator
};

/// state <- the latents that the request gives, on every rank.
void take_given(Drawing& drawing, const PicturePlace& place, const Latents& given, View host, View state) {
  if (drawing.is_root()) {
    for_request(place.request, drawing.made.size(), [&] {
      require(given.values != nullptr, ErrorKind::invalid_input, "{}: its latents were not read", given.file);
      check(given.values->view().size_in_bytes() == host.size_in_bytes(), "latents have the drawn size");
      std::memcpy(host.bytes(), given.values->view().bytes(), host.size_in_bytes());
    });
  }
  drawing.world().broadcast({host.bytes(), host.size_in_bytes(), Device{}}, kRoot).wait();
  upload(drawing.ctx(), host, state);
}

}  // namespace

SourceMemory SourceMemory::take(Arena& arena, const Drawing& drawing) {
  if (!drawing.made.front().resolved.has_source) return {};
  const Shape shape = drawing.latent_shape();
  return {nostos::take(arena, DType::f32, shape), nostos::take(arena, DType::f32, shape),
          nostos::take(arena, DType::f32, {1})};
}

void fill_initial_state(Drawing& drawing, const PicturePlace& place, ConstView encoding, const SourceMemory& memory,
                        View host, View state) {
  if (const Latents* const given = std::get_if<Latents>(&drawing.request_of(place).start))
    return take_given(drawing, place, *given, host, state);
  Draws draws(drawing, place, host);
  if (!encoding) return draws.draw(state);
  Context& ctx = drawing.ctx();
  const bool draws_latents = drawing.parts().shape().draws_latents;
  if (draws_latents) draws.draw(memory.clean);
  drawing.family().to_latents(ctx, encoding, draws_latents ? memory.clean : View{}, memory.clean);
  draws.draw(memory.noise);
  ops::mix_noise(ctx, memory.clean, memory.noise, memory.level, {}, state);
}

}  // namespace nostos
