// Implements the VAE. Source: diffusers autoencoder_kl.py, vae.py, unet_2d_blocks.py (Encoder, Decoder,
// UNetMidBlock2D).
#include "models/autoencoder_kl/autoencoder.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "nn/attention.h"
#include "ops/elementwise.h"
#include "ops/norm.h"
#include "ops/patches.h"

namespace nostos::autoencoder_kl {
namespace {

constexpr float kNormEps = 1e-6f;

/// One pass through a side: the current image and the memory it moves through.
class Pass {
 public:
  Pass(Context& ctx, const Config& config, const Scratch& scratch, const nn::Probe& probe, std::string name)
      : ctx_(ctx), config_(config), s_(scratch), probe_(probe), name_(std::move(name)) {}

  int64_t height = 0, width = 0, channels = 0;

  View x() const { return shaped(s_.x, channels); }
  View normed(int64_t width_channels) const { return shaped(s_.normed, width_channels); }

  void report(const std::string& what, ConstView image) const {
    if (probe_) probe_(name_ + "." + what, image);
  }

  /// normed = group_norm(image), then SiLU.
  void norm(ConstView image, const GroupNormWeights& w, bool silu) const {
    const View sums(s_.group_sums.bytes(), DType::f64, {height, config_.norm_groups, 2});
    ops::group_norm_row_sums(ctx_, image, sums);
    ops::group_norm_apply(ctx_, image, sums, w.weight, w.bias, kNormEps, silu, normed(image.shape()[2]));
  }

  /// x = x + conv(silu(norm(conv(silu(norm(x)))))), through a 1x1 convolution where the channels change.
  void resnet(const ResnetWeights& w) {
    ctx_.throw_if_cancelled();
    const int64_t out = w.conv1.out;
    const Padding same{1, 1, 1, 1};
    const View h = shaped(s_.h, out);
    norm(x(), w.norm1, true);
    ops::conv2d(ctx_, normed(channels), w.conv1, 1, same, h);
    if (w.shortcut) {
      ops::convert(ctx_, x(), normed(channels));
      ops::conv2d(ctx_, normed(channels), *w.shortcut, 1, {}, shaped(s_.x, out));
      channels = out;
    }
    norm(h, w.norm2, true);
    ops::conv2d(ctx_, normed(out), w.conv2, 1, same, x(), true);
  }

  void mid(const MidWeights& w) {
    resnet(w.first);
    report("mid_block.resnets.0", x());
    if (config_.mid_attention) {
      const int64_t tokens = height * width;
      norm(x(), w.attention_norm, false);
      nn::attention(ctx_, {1, 1, channels, kNormEps, ops::RotaryPairs::half_split, false}, w.attention,
                    normed(channels).reshape({tokens, channels}), {}, s_.attention, x().reshape({tokens, channels}),
                    true);
      report("mid_block.attentions.0", x());
    }
    resnet(w.second);
    report("mid_block.resnets.1", x());
  }

  /// Doubles the sides: x = conv(nearest upsampling of x).
  void upsample(const Conv2d& conv) {
    const View source = x();
    height *= 2;
    width *= 2;
    ops::upsample_nearest_2x(ctx_, source, normed(channels));
    ops::conv2d(ctx_, normed(channels), conv, 1, {1, 1, 1, 1}, x());
  }

  /// Halves the sides: x = conv with stride 2, padded at the bottom and the right alone.
  void downsample(const Conv2d& conv) {
    const View input = normed(channels);
    ops::convert(ctx_, x(), input);
    height /= 2;
    width /= 2;
    ops::conv2d(ctx_, input, conv, 2, {0, 0, 1, 1}, x());
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
  View shaped(View buffer, int64_t width_channels) const {
    const Shape shape{height, width, width_channels};
    check(shape.elements() <= buffer.elements(), "a VAE buffer is smaller than its plan");
    return {buffer.bytes(), buffer.dtype(), shape};
  }

  Context& ctx_;
  const Config& config_;
  const Scratch& s_;
  const nn::Probe& probe_;
  std::string name_;
};

/// Largest number of elements that a buffer must hold.
struct Sizes {
  int64_t x = 0, h = 0, normed = 0;

  void at(int64_t pixels, int64_t x_channels, int64_t h_channels) {
    x = std::max(x, pixels * std::max(x_channels, h_channels));
    h = std::max(h, pixels * h_channels);
    normed = std::max({normed, pixels * x_channels, pixels * h_channels});
  }
};

Scratch take_scratch(Arena& arena, const Config& config, DType dtype, const Sizes& sizes, int64_t rows,
                     int64_t mid_tokens) {
  Scratch s;
  s.x = take(arena, DType::f32, {sizes.x});
  s.h = take(arena, DType::f32, {sizes.h});
  s.normed = take(arena, dtype, {sizes.normed});
  s.group_sums = take(arena, DType::f64, {rows * config.norm_groups * 2});
  if (config.mid_attention) {
    s.attention = nn::AttentionScratch::take(
        arena, {1, 1, config.block_channels.back(), kNormEps, ops::RotaryPairs::half_split, false}, mid_tokens, dtype);
  }
  return s;
}

}  // namespace

Scratch Autoencoder::take_decode_scratch(Arena& arena, int64_t latent_height, int64_t latent_width) const {
  const std::vector<int64_t> channels(config_.block_channels.rbegin(), config_.block_channels.rend());
  const int64_t latent_pixels = latent_height * latent_width;
  Sizes sizes;
  sizes.at(latent_pixels, config_.latent_channels, channels.front());
  int64_t in = channels.front(), pixels = latent_pixels;
  for (size_t level = 0; level < channels.size(); ++level) {
    sizes.at(pixels, in, channels[level]);
    in = channels[level];
    if (level + 1 < channels.size()) {
      pixels *= 4;
      sizes.at(pixels, in, 0);
    }
  }
  return take_scratch(arena, config_, dtype_, sizes, latent_height * config_.scale(), latent_pixels);
}

Scratch Autoencoder::take_encode_scratch(Arena& arena, int64_t height, int64_t width) const {
  const std::vector<int64_t>& channels = config_.block_channels;
  Sizes sizes;
  int64_t in = channels.front(), pixels = height * width;
  sizes.at(pixels, config_.image_channels, in);
  for (size_t level = 0; level < channels.size(); ++level) {
    sizes.at(pixels, in, channels[level]);
    in = channels[level];
    if (level + 1 < channels.size()) pixels /= 4;
  }
  sizes.at(pixels, 2 * config_.latent_channels, in);
  return take_scratch(arena, config_, dtype_, sizes, height, pixels);
}

void Autoencoder::decode(Context& ctx, ConstView latents, const Scratch& scratch, View image,
                         const nn::Probe& probe) const {
  const SideWeights& w = weights_.decoder;
  Pass pass(ctx, config_, scratch, probe, "decoder");
  pass.height = latents.shape()[1];
  pass.width = latents.shape()[2];
  pass.channels = config_.latent_channels;
  ops::latents_to_image(ctx, latents, config_.scaling_factor, config_.shift_factor, pass.x());
  if (w.quant) {
    ops::convert(ctx, pass.x(), pass.normed(pass.channels));
    ops::conv2d(ctx, pass.normed(pass.channels), *w.quant, 1, {}, pass.x());
  }
  pass.report("input", pass.x());
  ops::convert(ctx, pass.x(), pass.normed(pass.channels));
  const View input = pass.normed(pass.channels);
  pass.channels = w.conv_in.out;
  ops::conv2d(ctx, input, w.conv_in, 1, {1, 1, 1, 1}, pass.x());
  pass.report("conv_in", pass.x());
  pass.mid(w.mid);
  for (size_t i = 0; i < w.levels.size(); ++i) pass.level(w.levels[i], "up_blocks." + std::to_string(i), true);
  pass.norm(pass.x(), w.norm_out, true);
  pass.report("conv_act", pass.normed(pass.channels));
  ops::conv2d(ctx, pass.normed(pass.channels), w.conv_out, 1, {1, 1, 1, 1}, image);
  pass.report("conv_out", image);
}

void Autoencoder::encode(Context& ctx, ConstView image, const Scratch& scratch, View moments,
                         const nn::Probe& probe) const {
  check(weights_.encoder.has_value(), "the VAE was loaded without its encoder");
  const SideWeights& w = *weights_.encoder;
  Pass pass(ctx, config_, scratch, probe, "encoder");
  pass.height = image.shape()[0];
  pass.width = image.shape()[1];
  pass.channels = config_.image_channels;
  const View input = pass.normed(pass.channels);
  ops::convert(ctx, image, input);
  pass.channels = w.conv_in.out;
  ops::conv2d(ctx, input, w.conv_in, 1, {1, 1, 1, 1}, pass.x());
  pass.report("conv_in", pass.x());
  for (size_t i = 0; i < w.levels.size(); ++i) pass.level(w.levels[i], "down_blocks." + std::to_string(i), false);
  pass.mid(w.mid);
  pass.norm(pass.x(), w.norm_out, true);
  pass.report("conv_act", pass.normed(pass.channels));
  ops::conv2d(ctx, pass.normed(pass.channels), w.conv_out, 1, {1, 1, 1, 1}, moments);
  pass.report("conv_out", moments);
  if (w.quant) {
    const View unmixed = pass.normed(moments.shape()[2]);
    ops::convert(ctx, moments, unmixed);
    ops::conv2d(ctx, unmixed, *w.quant, 1, {}, moments);
  }
}

}  // namespace nostos::autoencoder_kl
