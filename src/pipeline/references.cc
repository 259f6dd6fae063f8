// Implements the encoding of reference images.
#include "pipeline/references.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.h"
#include "nn/row_shards.h"
#include "pipeline/reference_images.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// \return an image as the model is given it, on every rank.
Image prepared(const Drawing& drawing, size_t index) {
  const ResolvedRequest& resolved = drawing.made.front().resolved;
  const ReferenceImage& given = resolved.request.images[index];
  const ImageSize size = resolved.reference_sizes[index];
  Image image{size.height, size.width, {}};
  if (drawing.is_root()) {
    const std::string field = fmt::format("image[{}]", index);
    require(given.image != nullptr, ErrorKind::invalid_input, "{}: '{}' was not read", field, given.file);
    image = prepare_reference(*given.image, drawing.parts().shape().limits, field);
    check(image.height == size.height && image.width == size.width, "an image is prepared as it was planned");
  }
  image.rgb.resize(static_cast<size_t>(size.height * size.width * 3));
  drawing.world().broadcast(host_bytes(std::span(image.rgb)), kRoot).wait();
  return image;
}

/// \return rows of the image, f32 in [-1, 1], as the reference pipeline rounds: x / 255, then 2 x - 1.
Tensor values_of(const Image& image, const parallel::Range& rows) {
  Tensor values(Device{}, DType::f32, {rows.count, image.width, 3});
  const size_t first = static_cast<size_t>(rows.begin * image.width * 3);
  for (int64_t i = 0; i < values.view().elements(); ++i)
    values.data<float>()[i] = 2.0f * (static_cast<float>(image.rgb[first + static_cast<size_t>(i)]) / 255.0f) - 1.0f;
  return values;
}

}  // namespace

std::vector<parallel::Grid> reference_grids(const Drawing& drawing) {
  const int64_t side = drawing.parts().shape().token_side();
  std::vector<parallel::Grid> grids;
  for (const ImageSize& size : drawing.made.front().resolved.reference_sizes)
    grids.push_back({size.height / side, size.width / side});
  return grids;
}

ReferenceMemory take_reference_memory(Arena& arena, const Drawing& drawing) {
  ReferenceMemory memory;
  int64_t tokens = 0;
  for (const parallel::Grid& grid : reference_grids(drawing)) {
    memory.images.push_back({.grid = grid});
    tokens += grid.tokens();
  }
  if (tokens > 0) memory.tokens = take(arena, DType::f32, {tokens, drawing.parts().shape().patch_width()});
  return memory;
}

void take_reference_scratch(Arena& arena, const Drawing& drawing, ReferenceMemory& memory) {
  const ModelShape& shape = drawing.parts().shape();
  const size_t mark = arena.used_bytes();
  for (ReferenceMemory::One& image : memory.images) {
    arena.rewind(mark);
    const int64_t height = image.grid.height * shape.patch, width = image.grid.width * shape.patch;
    const nn::RowShards shards(drawing.world(), height);
    image.pixels =
        take(arena, DType::f32,
             {shards.local(shape.limits.pixels_per_latent).count, width * shape.limits.pixels_per_latent, 3});
    image.encoder = drawing.family().take_encoder(arena, shards, width);
  }
}

void encode_references(Drawing& drawing, ReferenceMemory& memory) {
  if (memory.images.empty()) return;
  Context& ctx = drawing.ctx();
  if (drawing.takes_turns()) {
    drawing.turn_to(drawing.family().stage_parts().encode,
                    [&](Arena& arena) { take_reference_scratch(arena, drawing, memory); });
  }
  drawing.enter_stage("encode");
  drawing.timed("vae_encode", ctx, [&] {
    int64_t row = 0;
    for (size_t i = 0; i < memory.images.size(); ++i) {
      const auto& [grid, pixels, encoder] = memory.images[i];
      const int64_t scale = drawing.parts().shape().token_side();
      const Image image = prepared(drawing, i);
      const parallel::Range rows =
          parallel::split(grid.height, drawing.world().world())[static_cast<size_t>(drawing.world().rank())];
      upload(ctx, values_of(image, {rows.begin * scale, rows.count * scale}), pixels);
      encoder->encode(ctx, pixels, memory.tokens.rows(row, grid.tokens()));
      row += grid.tokens();
    }
  });
  if (drawing.takes_turns()) {
    drawing.world().device().synchronize(ctx, "references");
    for (ReferenceMemory::One& image : memory.images) image.encoder.reset();
    drawing.late.reset();
  }
}

}  // namespace nostos
