// Implements the decoding stage. The ranks exchange halos, sums, keys and values in the decoder, and pixels at the end.
#include "pipeline/decode.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "nn/row_shards.h"
#include "ops/patches.h"
#include "parallel/shard_plan.h"
#include "pipeline/batch.h"
#include "tensor/finite.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

Image black(int64_t height, int64_t width) {
  return {height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
}

View host_view(std::vector<int32_t>& values) {
  return {reinterpret_cast<std::byte*>(values.data()), DType::i32, {std::ssize(values)}};
}

/// \return rows of an image as u8 [count, width, 3].
View rows_of(Image& image, const parallel::Range& rows) {
  const View whole(reinterpret_cast<std::byte*>(image.rgb.data()), DType::u8, {image.height, image.width, 3});
  return whole.rows(rows.begin, rows.count);
}

/// \return the middle of `drawn`, of the asked size.
Image crop_evenly(Image drawn, int64_t height, int64_t width) {
  if (drawn.height == height && drawn.width == width) return drawn;
  const int64_t top = (drawn.height - height) / 2, left = (drawn.width - width) / 2;
  Image image = black(height, width);
  for (int64_t y = 0; y < height; ++y) {
    std::memcpy(image.rgb.data() + y * width * 3, drawn.rgb.data() + ((top + y) * drawn.width + left) * 3,
                static_cast<size_t>(width * 3));
  }
  return image;
}

/// \return the rows of a drawn picture that `rank` decodes.
parallel::Range pixel_rows(const Drawing& drawing, int rank) {
  const int64_t scale = drawing.parts().shape().limits.pixels_per_latent;
  const parallel::Range rows =
      parallel::split(drawing.latent_shape()[1], drawing.world().world())[static_cast<size_t>(rank)];
  return {rows.begin * scale, rows.count * scale};
}

/// Decodes every wanted picture. \param invalid becomes 1 for pictures whose pixels are no numbers
/// \return of each picture: on rank 0 all of it, with the own rows filled; elsewhere this rank's rows
std::vector<Image> decode_own_rows(Drawing& drawing, std::span<const PicturePlace> places, std::span<const View> states,
                                   const DecodeMemory& memory, std::vector<int32_t>& invalid) {
  Context& ctx = drawing.ctx();
  // The host has its memory before the GPU has the pixels.
  std::vector<Image> drawn(places.size());
  upload(ctx, host_view(invalid), memory.invalid);
  for (size_t i = 0; i < places.size(); ++i) {
    drawing.orders.drop_cancelled(drawing.made);
    if (!drawing.is_wanted(places[i])) continue;
    ctx.throw_if_cancelled();
    const ResolvedRequest& asked = drawing.made[places[i].request].resolved;
    drawn[i] = black(drawing.is_root() ? asked.drawn_height : memory.quantized.shape()[0], asked.drawn_width);
    drawing.run_recorded(drawing.rank.memory.decode(i), [&] {
      memory.decoder->decode(ctx, states[i], memory.decoded);
      ops::to_pixels(ctx, memory.decoded, memory.quantized, memory.invalid.rows(static_cast<int64_t>(i), 1));
    });
    const parallel::Range all{0, drawn[i].height};
    download(ctx, memory.quantized, rows_of(drawn[i], drawing.is_root() ? pixel_rows(drawing, kRoot) : all));
  }
  download(ctx, memory.invalid, host_view(invalid));
  return drawn;
}

/// The same on all ranks. \param decoded whether all values that became pixels are finite.
void require_finite(const Drawing& drawing, const Picture& picture, bool decoded) {
  const char* const hint = drawing.family().dtype() == DType::bf16 ? "; --precision f32 may help" : "";
  const auto require_values = [&](bool finite, const char* part) {
    require(finite, ErrorKind::invalid_input,
            "the {} gave values that are no numbers (NaN or infinite) for the picture of seed {}: its weights may be "
            "damaged, or guidance too strong{}",
            part, picture.seed, hint);
  };
  require_values(is_finite(picture.latents), "transformer");
  require_values(decoded, "VAE");
}

/// Brings a picture's rows home to rank 0. \param drawn on rank 0 the whole with the own rows, elsewhere these alone
void gather_picture(Drawing& drawing, Image drawn, const PicturePlace& place) {
  Communicator& world = drawing.world();
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  if (!drawing.is_root()) sends.push_back({kRoot, host_bytes(std::span<const uint8_t>(drawn.rgb))});
  for (int peer = 0; drawing.is_root() && peer < world.world(); ++peer) {
    const View part = rows_of(drawn, pixel_rows(drawing, peer));
    if (peer != kRoot) receives.push_back({peer, {part.bytes(), part.size_in_bytes(), Device{}}});
  }
  world.exchange("pixels", sends, receives).wait();
  if (!drawing.is_root()) return;
  const GenerationRequest& asked = drawing.request_of(place);
  drawing.picture_at(place).image = crop_evenly(std::move(drawn), *asked.height, *asked.width);
}

}  // namespace

DecodeMemory take_decode_memory(Arena& arena, const Drawing& drawing, size_t pictures) {
  const Shape latent = drawing.latent_shape();
  const nn::RowShards shards(drawing.world(), latent[1]);
  const Shape pixels{shards.local(drawing.parts().shape().limits.pixels_per_latent).count,
                     drawing.made.front().resolved.drawn_width, 3};
  return {take(arena, DType::f32, pixels), take(arena, DType::u8, pixels),
          take(arena, DType::i32, {static_cast<int64_t>(pictures)}),
          drawing.family().take_decoder(arena, shards, latent[1], latent[2])};
}

void plan_decode(const Drawing& drawing, std::span<const View> states, const DecodeMemory& memory) {
  if (memory.decoder == nullptr) return;    // not loaded yet
  if (drawing.world().world() > 1) return;  // the ranks exchange meanwhile
  memory.decoder->plan(drawing.ctx(), states.front(), memory.decoded);
}

void decode(Drawing& drawing, std::span<const PicturePlace> places, std::span<const View> states, DecodeMemory memory) {
  Context& ctx = drawing.ctx();
  if (drawing.takes_turns()) {
    memory = drawing.turn_to(drawing.family().stage_parts().decode,
                             [&](Arena& arena) { return take_decode_memory(arena, drawing, places.size()); });
  }
  drawing.enter_stage("decode");
  std::vector<int32_t> invalid(places.size(), 0);
  std::vector<Image> drawn;
  drawing.timed("vae_decode", ctx, [&] { drawn = decode_own_rows(drawing, places, states, memory, invalid); });
  drawing.world().device().synchronize(ctx, "pictures");
  // Ranks that fail together can go on together.
  std::vector<int64_t> ranks_with_invalid(invalid.begin(), invalid.end());
  drawing.world().all_reduce_sum(std::span(ranks_with_invalid));
  for (size_t i = 0; i < places.size(); ++i) {
    if (!drawing.is_wanted(places[i])) continue;
    for_request(places[i].request, drawing.made.size(),
                [&] { require_finite(drawing, drawing.picture_at(places[i]), ranks_with_invalid[i] == 0); });
    gather_picture(drawing, std::move(drawn[i]), places[i]);
  }
  if (drawing.takes_turns()) {
    drawing.world().barrier();
    if (drawing.leads()) drawing.parts().turn_to(drawing.rank.process.ctx, {});
  }
}

}  // namespace nostos
