// Implements the VAE. Source: diffusers autoencoder_kl.py, vae.py, unet_2d_blocks.py (Encoder, Decoder,
// UNetMidBlock2D).
#include "models/autoencoder_kl/autoencoder.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

#include "base/error.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/patches.h"

namespace nostos::autoencoder_kl {
namespace {

constexpr float kNormEps = 1e-6f;

/// Whether a pass computes, or only plans the convolutions that it would compute.
enum class Mode { plan, run };

/// One pass through a side over this rank's rows: the current image and the memory it moves through.
class Pass {
 public:
  Pass(Context& ctx, const Config& config, const nn::RowShards& shards, const Scratch& scratch, const nn::Probe& probe,
       std::string name, Mode mode = Mode::run)
      : ctx_(ctx),
        config_(config),
        shards_(shards),
        s_(scratch),
        probe_(probe),
        name_(std::move(name)),
        runs_(mode == Mode::run),
        x_(scratch.x),
        h_(scratch.h) {}

  int64_t scale = 1;  ///< image rows for each latent row
  int64_t width = 0, channels = 0;

  View x() const { return shaped(x_, rows(), channels); }
  View normed(int64_t width_channels) const { return shards_.own_of_slab(slab(width_channels)); }

  void report(const std::string& what, ConstView image) const {
    if (runs_ && probe_) probe_(name_ + "." + what, image);
  }

  /// The decoder. \param latents, image as decode().
  void decode(const SideWeights& w, ConstView latents, View image) {
    const Shape whole_shape{latents.shape()[1], latents.shape()[2], latents.shape()[0]};
    width = whole_shape[1];
    channels = whole_shape[2];
    // Latents are small: every rank lays them all out and goes on with its own rows.
    const View whole(s_.x.bytes(), DType::f32, whole_shape);
    check(whole.size_in_bytes() <= s_.x.size_in_bytes(), "a VAE buffer is smaller than its plan");
    if (runs_) ops::latents_to_image(ctx_, latents, config_.scaling_factor, config_.shift_factor, whole);
    View own = shards_.own_of_whole(whole);
    if (w.quant) {
      convert(own, normed(channels));
      own = x();
      conv2d(normed(channels), *w.quant, 1, {}, own);
    }
    report("input", own);
    convert(own, normed(channels));
    channels = w.conv_in.out;
    convolve(w.conv_in, x());
    report("conv_in", x());
    mid(w.mid);
    for (size_t i = 0; i < w.levels.size(); ++i) level(w.levels[i], "up_blocks." + std::to_string(i), true);
    norm(x(), w.norm_out, true);
    report("conv_act", normed(channels));
    convolve(w.conv_out, image);
    report("conv_out", image);
  }

  void convert(ConstView from, View to) const {
    if (runs_) ops::convert(ctx_, from, to);
  }

  void conv2d(ConstView from, const Conv2d& conv, int64_t stride, const Padding& padding, View to,
              bool accumulate = false) const {
    const auto op = runs_ ? ops::conv2d : ops::plan_conv2d;
    op(ctx_, from, conv, stride, padding, to, accumulate);
  }

  /// normed = group_norm(image), then SiLU.
  void norm(ConstView image, const GroupNormWeights& w, bool silu) const {
    if (!runs_) return;
    // The image rows of a latent row lie side by side: to the sums they are one long row, whatever the resolution.
    const Shape shape{shards_.local().count, scale * width, image.shape()[2]};
    const ConstView rows = image.reshape(shape);
    ops::group_norm_row_sums(ctx_, rows, shards_.own_of_whole(s_.group_sums));
    shards_.gather(ctx_, {s_.group_sums});
    ops::group_norm_apply(ctx_, rows, s_.group_sums, w.weight, w.bias, kNormEps, silu,
                          normed(image.shape()[2]).reshape(shape));
  }

  /// y (+)= 3x3 convolution of normed.
  void convolve(const Conv2d& conv, View y, bool accumulate = false) const {
    if (runs_) shards_.exchange_halo(ctx_, slab(conv.in));
    conv2d(slab(conv.in), conv, 1, shards_.padding(), y, accumulate);
  }

  /// x = x + conv(silu(norm(conv(silu(norm(x)))))), through a 1x1 convolution where the channels change.
  void resnet(const ResnetWeights& w) {
    ctx_.throw_if_cancelled();
    const int64_t out = w.conv1.out;
    View skip = x_, inner = h_;
    if (w.shortcut) {
      // The shortcut takes the place of h, and the inner activations that of x, which nobody reads after its norm.
      std::swap(skip, inner);
      View input = x();
      if (input.dtype() != w.shortcut->dtype) {
        input = normed(channels);
        convert(x(), input);
      }
      conv2d(input, *w.shortcut, 1, {}, shaped(skip, rows(), out));
    }
    const View h = shaped(inner, rows(), out);
    norm(x(), w.norm1, true);
    convolve(w.conv1, h);
    norm(h, w.norm2, true);
    x_ = skip;
    h_ = inner;
    channels = out;
    convolve(w.conv2, x(), true);
  }

  /// x = x + attention(norm(x)): this rank's queries over the keys of all ranks.
  void attend(const MidWeights& w) {
    if (x_.bytes() != s_.x.bytes()) {
      const View from = x();
      take_largest_buffer();
      convert(from, x());
    }
    if (!runs_) return;
    const MidAttentionScratch& s = s_.attention;
    const int64_t tokens = rows() * width, keys = s.k.shape()[0];
    const Shape own{1, tokens, channels}, all{1, keys, channels};
    norm(x(), w.attention_norm, false);
    ops::linear(ctx_, normed(channels).reshape({tokens, channels}), w.attention.qkv, s.qkv);
    const ops::HeadGroup head{s.q.reshape(own), shards_.own_of_whole(s.k).reshape(own),
                              shards_.own_of_whole(s.v).reshape(own)};
    ops::split_heads_rope(ctx_, s.qkv, {}, {}, kNormEps, {}, {}, ops::RotaryPairs::half_split, std::span(&head, 1));
    shards_.gather(ctx_, {s.k, s.v});
    const float factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(channels)));
    ops::attention(ctx_, head.q, s.k.reshape(all), s.v.reshape(all), factor, false, s.mixed);
    const View stream = x().reshape({tokens, channels});
    if (stream.dtype() == DType::f32) return ops::linear(ctx_, s.mixed, w.attention.out, stream, true);
    const View sum(s.qkv.bytes(), DType::f32, stream.shape());  // qkv's work is done
    ops::convert(ctx_, stream, sum);
    ops::linear(ctx_, s.mixed, w.attention.out, sum, true);
    ops::convert(ctx_, sum, stream);
  }

  void mid(const MidWeights& w) {
    resnet(w.first);
    report("mid_block.resnets.0", x());
    if (config_.mid_attention) {
      attend(w);
      report("mid_block.attentions.0", x());
    }
    resnet(w.second);
    report("mid_block.resnets.1", x());
  }

  /// Doubles the sides: x = conv(nearest upsampling of x).
  void upsample(const Conv2d& conv) {
    const View source = slab_of_x();
    scale *= 2;
    width *= 2;
    take_largest_buffer();
    const auto op = runs_ ? ops::upsampling_conv2d : ops::plan_upsampling_conv2d;
    op(ctx_, source, conv, shards_.padding(), s_.normed, x());
  }

  /// Halves the sides: x = conv with stride 2, padded at the bottom and the right alone. On one rank.
  void downsample(const Conv2d& conv) {
    const View input = normed(channels);
    convert(x(), input);
    scale /= 2;
    width /= 2;
    take_largest_buffer();
    conv2d(input, conv, 2, {0, 0, 1, 1}, x());
  }

  /// Runs the level's residual blocks and its change of resolution.
  void level(const LevelWeights& w, const std::string& what, bool up) {
    for (size_t i = 0; i < w.resnets.size(); ++i) {
      resnet(w.resnets[i]);
      report(what + ".resnets." + std::to_string(i), x());
    }
    if (w.resample) up ? upsample(*w.resample) : downsample(*w.resample);
    report(what, x());
  }

 private:
  int64_t rows() const { return shards_.local(scale).count; }

  /// \return x with the rows around this rank's own.
  View slab_of_x() const {
    const View own = x();
    const Shape shape{shards_.slab_rows(scale), width, channels};
    if (shape[0] == own.shape()[0]) return own;
    // x's own memory holds four images of this size: the slab lies behind the first.
    const View room = s_.x.rows(own.elements(), shape.elements()).reshape(shape);
    if (!runs_) return room;
    ops::convert(ctx_, own, shards_.own_of_slab(room));
    shards_.exchange_halo(ctx_, room);
    return room;
  }

  /// Moves on to x's own memory, which takes the image of every level. Its content is not kept.
  void take_largest_buffer() {
    x_ = s_.x;
    h_ = s_.h;
  }

  /// \return normed with the rows around this rank's own.
  View slab(int64_t width_channels) const { return shaped(s_.normed, shards_.slab_rows(scale), width_channels); }

  View shaped(View buffer, int64_t height, int64_t width_channels) const {
    const Shape shape{height, width, width_channels};
    check(shape.elements() <= buffer.elements(), "a VAE buffer is smaller than its plan");
    return {buffer.bytes(), buffer.dtype(), shape};
  }

  Context& ctx_;
  const Config& config_;
  const nn::RowShards& shards_;
  const Scratch& s_;
  const nn::Probe& probe_;
  std::string name_;
  bool runs_;
  View x_, h_;  ///< the scratch memory that holds the residual stream now, and the other
};

/// Largest number of elements that a buffer must hold on this rank.
struct Sizes {
  int64_t x = 0, h = 0, normed = 0;

  void at(const nn::RowShards& shards, int64_t scale, int64_t width, int64_t x_channels, int64_t h_channels) {
    const int64_t pixels = shards.local(scale).count * width, most_channels = std::max(x_channels, h_channels);
    x = std::max(x, pixels * most_channels);
    h = std::max(h, pixels * h_channels);
    normed = std::max(normed, shards.slab_rows(scale) * width * most_channels);
  }

  /// Before an upsampling.
  void upsampling(const nn::RowShards& shards, int64_t scale, int64_t width, const Conv2d& conv) {
    const Shape slab{shards.slab_rows(scale), width, conv.in};
    normed = std::max(normed, ops::upsampling_scratch(slab, conv, shards.padding()).elements());
  }
};

Scratch take_scratch(Arena& arena, const Config& config, DType dtype, const nn::RowShards& shards, int64_t latent_width,
                     const Sizes& sizes) {
  Scratch s;
  const DType inner = ops::product_dtype(arena.device(), dtype);
  s.x = take(arena, inner, {sizes.x});
  s.normed = take(arena, dtype, {sizes.normed});
  s.group_sums = take(arena, DType::f64, {shards.rows(), config.norm_groups, 2});
  const size_t mark = arena.used_bytes();
  if (config.mid_attention) {
    const int64_t channels = config.block_channels.back(), tokens = shards.local().count * latent_width;
    s.attention.qkv = take(arena, DType::f32, {tokens, 3 * channels});
    s.attention.q = take(arena, dtype, {tokens, channels});
    s.attention.k = take(arena, dtype, {shards.rows() * latent_width, channels});
    s.attention.v = take(arena, dtype, {shards.rows() * latent_width, channels});
    s.attention.mixed = take(arena, dtype, {tokens, channels});
  }
  const size_t attention_end = arena.used_bytes();
  arena.rewind(mark);
  s.h = take(arena, inner, {sizes.h});
  // Many ranks' keys and values may reach beyond h: what the caller takes next must not lie there.
  if (arena.used_bytes() < attention_end) arena.take(attention_end - arena.used_bytes());
  return s;
}

}  // namespace

Scratch Autoencoder::take_decode_scratch(Arena& arena, const nn::RowShards& shards, int64_t latent_height,
                                         int64_t latent_width) const {
  check(shards.rows() == latent_height, "a VAE's shards are of its latent rows");
  const std::vector<int64_t> channels(config_.block_channels.rbegin(), config_.block_channels.rend());
  Sizes sizes;
  sizes.at(shards, 1, latent_width, config_.latent_channels, channels.front());
  // The latents, whole, in float32.
  const int64_t latents = latent_height * latent_width * config_.latent_channels;
  const DType x = ops::product_dtype(arena.device(), dtype_);
  sizes.x = std::max(sizes.x, latents * static_cast<int64_t>(size_bytes(DType::f32) / size_bytes(x)));
  int64_t in = channels.front(), scale = 1;
  for (size_t level = 0; level < channels.size(); ++level) {
    sizes.at(shards, scale, scale * latent_width, in, channels[level]);
    in = channels[level];
    if (level + 1 < channels.size()) {
      sizes.upsampling(shards, scale, scale * latent_width, *weights_.decoder.levels[level].resample);
      scale *= 2;
      sizes.at(shards, scale, scale * latent_width, in, 0);
    }
  }
  return take_scratch(arena, config_, dtype_, shards, latent_width, sizes);
}

Scratch Autoencoder::take_encode_scratch(Arena& arena, int64_t height, int64_t width) const {
  const nn::RowShards shards(height / config_.scale());
  const std::vector<int64_t>& channels = config_.block_channels;
  const int64_t latent_width = width / config_.scale();
  Sizes sizes;
  int64_t in = channels.front(), scale = config_.scale();
  sizes.at(shards, scale, width, config_.image_channels, in);
  for (size_t level = 0; level < channels.size(); ++level) {
    sizes.at(shards, scale, scale * latent_width, in, channels[level]);
    in = channels[level];
    if (level + 1 < channels.size()) scale /= 2;
  }
  sizes.at(shards, scale, latent_width, 2 * config_.latent_channels, in);
  return take_scratch(arena, config_, dtype_, shards, latent_width, sizes);
}

void Autoencoder::decode(Context& ctx, const nn::RowShards& shards, ConstView latents, const Scratch& scratch,
                         View image, const nn::Probe& probe) const {
  check(shards.rows() == latents.shape()[1], "a VAE's shards are of its latent rows");
  for (const Mode mode : {Mode::plan, Mode::run})
    Pass(ctx, config_, shards, scratch, probe, "decoder", mode).decode(weights_.decoder, latents, image);
}

void Autoencoder::encode(Context& ctx, ConstView image, const Scratch& scratch, View moments,
                         const nn::Probe& probe) const {
  check(weights_.encoder.has_value(), "the VAE was loaded without its encoder");
  const SideWeights& w = *weights_.encoder;
  const nn::RowShards shards(image.shape()[0] / config_.scale());
  Pass pass(ctx, config_, shards, scratch, probe, "encoder");
  pass.scale = config_.scale();
  pass.width = image.shape()[1];
  pass.channels = config_.image_channels;
  pass.convert(image, pass.normed(pass.channels));
  pass.channels = w.conv_in.out;
  pass.convolve(w.conv_in, pass.x());
  pass.report("conv_in", pass.x());
  for (size_t i = 0; i < w.levels.size(); ++i) pass.level(w.levels[i], "down_blocks." + std::to_string(i), false);
  pass.mid(w.mid);
  pass.norm(pass.x(), w.norm_out, true);
  pass.report("conv_act", pass.normed(pass.channels));
  pass.convolve(w.conv_out, moments);
  pass.report("conv_out", moments);
  if (w.quant) {
    const View unmixed = pass.normed(moments.shape()[2]);
    pass.convert(moments, unmixed);
    pass.conv2d(unmixed, *w.quant, 1, {}, moments);
  }
}

}  // namespace nostos::autoencoder_kl
