// Implements the encoding of images.
#include "pipeline/encode.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "base/error.h"
#include "nn/row_shards.h"
#include "ops/patches.h"
#include "pipeline/reference_images.h"
#include "pipeline/source_image.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// \return the pixels of an image. \throws Error invalid_input if they were not read
const Image& pixels_of(const ReferenceImage& given, const std::string& field) {
  require(given.image != nullptr, ErrorKind::invalid_input, "{}: '{}' was not read", field, given.file);
  return *given.image;
}

/// \return what an image is made of, and what it is called in messages.
std::pair<const ReferenceImage&, std::string> given_for(const GenerationRequest& request,
                                                        const EncodeMemory::One& one) {
  if (one.role == EncodeMemory::Role::control) return {*request.control->image, "control.image"};
  return {request.images[one.index], fmt::format("image[{}]", one.index)};
}

/// \return whether what is made of a picture of `size` is the picture itself.
bool is_prepared(const ResolvedRequest& resolved, const EncodeMemory::One& one, ImageSize size) {
  const ImageSize asked{*resolved.request.height, *resolved.request.width};
  const ImageSize drawn{resolved.drawn_height, resolved.drawn_width};
  using Role = EncodeMemory::Role;
  if (one.role == Role::reference) return true;
  if (one.role == Role::control && resolved.request.control->preprocessor != Preprocessor::none) return false;
  // Otherwise it is brought to the asked size, and its edges are drawn out from there.
  return asked == drawn && size == drawn;
}

/// \return the image as the VAE is given it. A picture that is so already is not copied: on a GPU the copies took half
/// as long as the encoder. \param size of what is made
std::shared_ptr<const Image> prepared_on_root(const Drawing& drawing, const EncodeMemory::One& one, ImageSize size) {
  const ResolvedRequest& resolved = drawing.made.front().resolved;
  const ModelLimits& limits = drawing.parts().shape().limits;
  const auto [image, field] = given_for(resolved.request, one);
  const Image& given = pixels_of(image, field);
  if (size == ImageSize{given.height, given.width} && is_prepared(resolved, one, size)) return image.image;
  const bool is_control = one.role == EncodeMemory::Role::control;
  auto made = std::make_shared<const Image>(is_control ? prepare_control(given, resolved, limits)
                                            : one.role == EncodeMemory::Role::reference
                                                ? prepare_reference(given, limits, field)
                                                : prepare_source(given, resolved, limits));
  check(size == ImageSize{made->height, made->width}, "an image is prepared as it was planned");
  return made;
}

/// \return prepared_on_root() on every rank.
std::shared_ptr<const Image> prepared(const Drawing& drawing, const EncodeMemory::One& one) {
  const int64_t side = drawing.parts().shape().token_side();
  const ImageSize size{one.grid.height * side, one.grid.width * side};
  std::shared_ptr<const Image> given;
  if (drawing.is_root()) given = prepared_on_root(drawing, one, size);
  if (drawing.world().world() == 1) return given;
  Image image{size.height, size.width, given ? given->rgb : std::vector<uint8_t>()};
  image.rgb.resize(static_cast<size_t>(size.height * size.width * 3));
  drawing.world().broadcast(host_bytes(std::span(image.rgb)), kRoot).wait();
  return std::make_shared<const Image>(std::move(image));
}

/// \return the mask at the drawn size, 255 what is drawn anew, on every rank.
GreyImage hard_mask(const Drawing& drawing) {
  const ResolvedRequest& resolved = drawing.made.front().resolved;
  GreyImage mask{resolved.drawn_height, resolved.drawn_width, {}};
  if (drawing.is_root())
    mask = prepare_hard_mask(pixels_of(resolved.request.mask->image, "mask"), resolved, drawing.parts().shape().limits);
  mask.grey.resize(static_cast<size_t>(mask.height * mask.width));
  drawing.world().broadcast(host_bytes(std::span(mask.grey)), kRoot).wait();
  return mask;
}

/// \return rows of the image, as ops::from_pixels() makes them, with grey in the place of what is drawn anew.
Tensor covered_values(const Image& image, const GreyImage& mask, const parallel::Range& rows) {
  Tensor values(Device{}, DType::f32, {rows.count, image.width, 3});
  for (int64_t i = 0; i < values.view().elements(); ++i) {
    const auto at = static_cast<size_t>(rows.begin * image.width * 3 + i);
    const float value = 2.0f * (static_cast<float>(image.rgb[at]) / 255.0f) - 1.0f;
    values.data<float>()[i] = mask.grey[at / 3] != 0 ? 0.0f : value;
  }
  return values;
}

/// Fills memory.condition. \param mask of hard_mask(), if memory.control has one
void make_condition(Drawing& drawing, const GreyImage& mask, const EncodeMemory& memory) {
  Context& ctx = drawing.ctx();
  if (memory.control.is_known) {
    const Shape latents = memory.is_known.shape();
    const GreyImage small = interpolate_nearest(mask, {latents[0], latents[1]});
    Tensor is_known(Device{}, DType::f32, latents);
    std::ranges::transform(small.grey, is_known.data<float>(), [](uint8_t grey) { return grey == 0 ? 1.0f : 0.0f; });
    upload(ctx, is_known, memory.is_known);
  }
  drawing.family().to_condition(ctx, memory.control, memory.condition);
}

/// \return u8 [rows, width, 3] of the image.
ConstView rows_of(const Image& image, const parallel::Range& rows) {
  return {std::as_bytes(std::span(image.rgb)).data() + rows.begin * image.width * 3,
          DType::u8,
          {rows.count, image.width, 3}};
}

nn::RowShards latent_rows(const Drawing& drawing, const parallel::Grid& grid) {
  return {drawing.world(), grid.height * drawing.parts().shape().patch};
}

/// Fills memory.mask on every rank.
void take_mask(Drawing& drawing, EncodeMemory& memory) {
  const ResolvedRequest& resolved = drawing.made.front().resolved;
  const ModelShape& model = drawing.parts().shape();
  const Shape latent = drawing.latent_shape();
  std::vector<float> values;
  if (drawing.is_root()) values = prepare_mask(pixels_of(resolved.request.mask->image, "mask"), resolved, model);
  values.resize(static_cast<size_t>(latent[1] * latent[2]));
  drawing.world().broadcast(host_bytes(std::span(values)), kRoot).wait();
  // As ops::patchify() lays out the latents, all channels of which the mask holds for.
  Tensor tokens(Device{}, DType::f32, memory.mask.shape());
  float* to = tokens.data<float>();
  for (int64_t y = 0; y < latent[1]; y += model.patch)
    for (int64_t x = 0; x < latent[2]; x += model.patch)
      for (int64_t place = 0; place < model.patch * model.patch; ++place) {
        const int64_t row = y + place / model.patch, column = x + place % model.patch;
        to = std::fill_n(to, latent[0], values[static_cast<size_t>(row * latent[2] + column)]);
      }
  upload(drawing.ctx(), tokens, memory.mask);
}

}  // namespace

std::vector<parallel::Grid> reference_grids(const Drawing& drawing) {
  const int64_t side = drawing.parts().shape().token_side();
  std::vector<parallel::Grid> grids;
  for (const ImageSize& size : drawing.made.front().resolved.reference_sizes)
    grids.push_back({size.height / side, size.width / side});
  return grids;
}

namespace {

/// \return an image of the drawn size, with memory for its encoding.
EncodeMemory::One take_drawn(Arena& arena, const Drawing& drawing, EncodeMemory::Role role) {
  const ResolvedRequest& resolved = drawing.made.front().resolved;
  const int64_t side = drawing.parts().shape().token_side();
  const parallel::Grid grid{resolved.drawn_height / side, resolved.drawn_width / side};
  return {.role = role, .grid = grid, .encoding = take(arena, DType::f32, drawing.family().encoding_shape(grid))};
}

void take_source_memory(Arena& arena, const Drawing& drawing, EncodeMemory& memory) {
  const ResolvedRequest& resolved = drawing.made.front().resolved;
  if (!resolved.has_source) return;
  if (!resolved.shows_source)
    memory.images.insert(memory.images.begin(), take_drawn(arena, drawing, EncodeMemory::Role::source));
  EncodeMemory::One& source = memory.images.front();
  source.role = EncodeMemory::Role::source;
  memory.source = source.encoding;
  if (resolved.request.mask)
    memory.mask = take(arena, DType::f32, {source.grid.tokens(), drawing.parts().shape().patch_width()});
}

void take_control_memory(Arena& arena, const Drawing& drawing, EncodeMemory& memory) {
  const ModelShape& model = drawing.parts().shape();
  const Shape latent = drawing.latent_shape();
  memory.condition = take(arena, DType::f32, {model.control_channels, latent[1], latent[2]});
  const auto add = [&](EncodeMemory::Role role) -> ConstView {
    memory.images.push_back(take_drawn(arena, drawing, role));
    return memory.images.back().encoding;
  };
  const GenerationRequest& request = drawing.made.front().resolved.request;
  if (request.control->image) memory.control.image = add(EncodeMemory::Role::control);
  if (!model.limits.control_sees_mask || !request.mask) return;
  memory.control.known = add(EncodeMemory::Role::known);
  memory.is_known = take(arena, DType::f32, {latent[1], latent[2]});
  memory.control.is_known = memory.is_known;
}

}  // namespace

EncodeMemory take_encode_memory(Arena& arena, const Drawing& drawing) {
  const ModelShape& model = drawing.parts().shape();
  const ResolvedRequest& resolved = drawing.made.front().resolved;
  EncodeMemory memory;
  const std::vector<parallel::Grid> grids = reference_grids(drawing);
  int64_t tokens = 0;
  for (const parallel::Grid& grid : grids) tokens += grid.tokens();
  if (tokens > 0) memory.references = take(arena, DType::f32, {tokens, model.patch_width()});
  int64_t row = 0;
  size_t index = resolved.has_source && !resolved.shows_source ? 1 : 0;
  for (const parallel::Grid& grid : grids) {
    memory.images.push_back({.index = index++, .grid = grid, .encoding = memory.references.rows(row, grid.tokens())});
    row += grid.tokens();
  }
  take_source_memory(arena, drawing, memory);
  if (drawing.has_control()) take_control_memory(arena, drawing, memory);
  return memory;
}

void take_encode_scratch(Arena& arena, const Drawing& drawing, EncodeMemory& memory) {
  const ModelShape& model = drawing.parts().shape();
  const size_t mark = arena.used_bytes();
  for (EncodeMemory::One& one : memory.images) {
    arena.rewind(mark);
    const nn::RowShards shards = latent_rows(drawing, one.grid);
    const int64_t width = one.grid.width * model.patch, scale = model.limits.pixels_per_latent;
    one.bytes = take(arena, DType::u8, {shards.local(scale).count, width * scale, 3});
    one.pixels = take(arena, DType::f32, {shards.local(scale).count, width * scale, 3});
    one.encoder = drawing.family().take_encoder(arena, shards, width);
  }
}

void encode_images(Drawing& drawing, EncodeMemory& memory) {
  if (memory.images.empty()) return;
  Context& ctx = drawing.ctx();
  if (drawing.takes_turns()) {
    drawing.turn_to(drawing.family().stage_parts().encode,
                    [&](Arena& arena) { take_encode_scratch(arena, drawing, memory); });
  }
  drawing.enter_stage("encode");
  drawing.timed("vae_encode", ctx, [&] {
    const GreyImage mask = memory.control.is_known ? hard_mask(drawing) : GreyImage();
    for (const EncodeMemory::One& one : memory.images) {
      const std::shared_ptr<const Image> image = prepared(drawing, one);
      const int64_t scale = drawing.parts().shape().limits.pixels_per_latent;
      const parallel::Range rows = latent_rows(drawing, one.grid).local(scale);
      if (one.role == EncodeMemory::Role::known) {
        upload(ctx, covered_values(*image, mask, rows), one.pixels);
      } else {
        upload(ctx, rows_of(*image, rows), one.bytes);
        ops::from_pixels(ctx, one.bytes, one.pixels);
      }
      one.encoder->encode(ctx, one.pixels, one.encoding);
    }
    if (memory.mask) take_mask(drawing, memory);
    if (memory.condition) make_condition(drawing, mask, memory);
  });
  if (drawing.takes_turns()) {
    drawing.world().device().synchronize(ctx, "encodings");
    for (EncodeMemory::One& one : memory.images) one.encoder.reset();
    drawing.late.reset();
  }
}

}  // namespace nostos
