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
constexpr int64_t kUpsampledPixels = 4;  ///< for each pixel
constexpr int64_t kNoStripes = INT64_MAX;

/// Whether a pass computes, or only plans the convolutions that it would compute.
enum class Mode { plan, run };

/// \return into how many equal stripes of at least two rows an input of convolutions, this rank's rows of `row_bytes`
/// each, is divided. The attention, at scale 1, and ranks with neighbours have it whole.
int64_t stripe_count(const nn::RowShards& shards, int64_t scale, int64_t row_bytes, int64_t stripe_bytes) {
  const int64_t rows = shards.local(scale).count;
  if (rows == 0 || scale == 1 || shards.slab_rows(scale) != rows) return 1;
  int64_t count = std::min(std::max<int64_t>((rows * row_bytes - 1) / stripe_bytes + 1, 1), rows / 2);
  while (rows % count != 0) ++count;
  return count;
}

ops::ChannelStatistics statistics(const Config& config, const Weights& weights) {
  return {weights.latent_mean, weights.latent_var, config.batch_norm_eps};
}

/// Who sees what a pass makes, under the name of its side.
struct Watch {
  const nn::Probe& probe;
  const char* side;  ///< "decoder" or "encoder"
};

/// One pass through a side over this rank's rows: the current image and the memory it moves through.
class Pass {
 public:
  Pass(Context& ctx, const Config& config, const nn::RowShards& shards, const Scratch& scratch, const Watch& watch,
       Mode mode)
      : ctx_(ctx),
        config_(config),
        shards_(shards),
        s_(scratch),
        watch_(watch),
        runs_(mode == Mode::run),
        x_(scratch.x),
        h_(scratch.h) {}

  int64_t scale = 1;  ///< image rows for each latent row
  int64_t width = 0, channels = 0;

  View x() const { return shaped(x_, rows(), channels); }
  View normed(int64_t width_channels) const { return shards_.own_of_slab(slab(width_channels)); }

  void report(const std::string& what, ConstView image) const {
    if (runs_ && watch_.probe) watch_.probe(watch_.side + ("." + what), image);
  }

  /// The decoder. \param latents, image as decode().
  void decode(const Weights& weights, ConstView latents, View image) {
    const SideWeights& w = weights.decoder;
    const Shape whole_shape{latents.shape()[1] * config_.patch, latents.shape()[2] * config_.patch,
                            config_.latent_channels};
    width = whole_shape[1];
    channels = whole_shape[2];
    // Latents are small: every rank lays them all out and goes on with its own rows.
    const View whole(s_.x.bytes(), DType::f32, whole_shape);
    check(whole.size_in_bytes() <= s_.x.size_in_bytes(), "a VAE buffer is smaller than its plan");
    if (runs_ && config_.is_packed())
      ops::unpack_latents(ctx_, latents, config_.patch, statistics(config_, weights), whole);
    else if (runs_)
      ops::latents_to_image(ctx_, latents, config_.scaling_factor, config_.shift_factor, whole);
    View own = shards_.own_of_whole(whole);
    report("input", own);
    if (w.quant) {
      convert(own, normed(channels));
      own = x();
      conv2d(normed(channels), *w.quant, 1, {}, own);
      report("post_quant_conv", own);
    }
    convert(own, normed(channels));
    channels = w.conv_in.out;
    convolve(w.conv_in, x());
    report("conv_in", x());
    mid(w.mid);
    for (size_t i = 0; i < w.levels.size(); ++i) level(w.levels[i], "up_blocks." + std::to_string(i), true);
    convolve_normed(x(), w.norm_out, w.conv_out, image);
    if (stripes(channels) == 1) report("conv_act", normed(channels));
    report("conv_out", image);
  }

  /// The encoder. \param image, moments as encode().
  void encode(const SideWeights& w, ConstView image, View moments) {
    scale = config_.scale();
    width = image.shape()[1];
    channels = config_.image_channels;
    convert(image, normed(channels));
    channels = w.conv_in.out;
    convolve(w.conv_in, x());
    report("conv_in", x());
    for (size_t i = 0; i < w.levels.size(); ++i) level(w.levels[i], "down_blocks." + std::to_string(i), false);
    mid(w.mid);
    norm(x(), w.norm_out, true);
    report("conv_act", normed(channels));
    convolve(w.conv_out, moments);
    report("conv_out", moments);
    if (w.quant) {
      const View unmixed = normed(moments.shape()[2]);
      convert(moments, unmixed);
      conv2d(unmixed, *w.quant, 1, {}, moments);
    }
  }

  void convert(ConstView from, View to) const {
    if (runs_) ops::convert(ctx_, from, to);
  }

  void conv2d(ConstView from, const Conv2d& conv, int64_t stride, const Padding& padding, View to,
              bool accumulate = false) const {
    const auto op = runs_ ? ops::conv2d : ops::plan_conv2d;
    op(ctx_, from, conv, {stride, padding, accumulate}, to);
  }

  /// normed = group_norm(image), then SiLU.
  void norm(ConstView image, const GroupNormWeights& w, bool silu) const {
    sum_rows(image);
    apply_norm(image, w, silu, normed(image.shape()[2]));
  }

  /// y (+)= 3x3 convolution of normed.
  void convolve(const Conv2d& conv, View y, bool accumulate = false) const {
    if (runs_) shards_.exchange_halo(ctx_, slab(conv.in));
    conv2d(slab(conv.in), conv, 1, shards_.padding(), y, accumulate);
  }

  /// y (+)= 3x3 convolution of silu(group_norm(image)). y may lie where the image does if it has half of the channels
  /// at most: then the first stripes of y end before the rows of the image that the next one reads.
  void convolve_normed(ConstView image, const GroupNormWeights& w, const Conv2d& conv, View y,
                       bool accumulate = false) const {
    const int64_t count = stripes(conv.in);
    if (count == 1) {
      norm(image, w, true);
      return convolve(conv, y, accumulate);
    }
    sum_rows(image);
    const int64_t own = rows() / count;
    const View stripe = shaped(s_.normed, own + 2, conv.in);
    for (int64_t i = 0; i < count; ++i) {
      // Rows of zeros stand for the picture's padding, so that all stripes are the same convolution.
      const int64_t above = i > 0 ? 1 : 0, below = i + 1 < count ? 1 : 0;
      apply_norm(image.rows(i * own - above, above + own + below), w, true,
                 stripe.rows(1 - above, above + own + below));
      if (runs_ && above == 0) ops::clear(ctx_, stripe.rows(0, 1));
      if (runs_ && below == 0) ops::clear(ctx_, stripe.rows(own + 1, 1));
      conv2d(stripe, conv, 1, {0, 1, 0, 1}, y.rows(i * own, own), accumulate);
    }
  }

  /// x = x + conv(silu(norm(conv(silu(norm(x)))))), through a 1x1 convolution where the channels change.
  void resnet(const ResnetWeights& w) {
    ctx_.throw_if_cancelled();
    const int64_t out = w.conv1.out;
    View skip = x_, inner = h_;
    if (w.shortcut) {
      // The shortcut takes the place of h, and the inner activations that of x, which nobody reads after its norm.
      std::swap(skip, inner);
      shortcut(*w.shortcut, shaped(skip, rows(), out));
      // More channels than x has would overwrite rows that are still to be read: they stand behind x.
      if (out > channels) inner = inner.rows(x().elements(), inner.elements() - x().elements());
    }
    const View h = shaped(inner, rows(), out);
    convolve_normed(x(), w.norm1, w.conv1, h);
    x_ = skip;
    h_ = inner;
    channels = out;
    convolve_normed(h, w.norm2, w.conv2, x(), true);
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
    ops::split_heads_rope(ctx_, s.qkv, {}, std::span(&head, 1));
    shards_.gather(ctx_, {s.k, s.v});
    const float factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(channels)));
    ops::attention(ctx_, {head.q, s.k.reshape(all), s.v.reshape(all)}, factor, false, s.mixed);
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
    const int64_t own = rows(), count = stripes(kUpsampledPixels * channels);
    const View source = slab_of_x();
    scale *= 2;
    width *= 2;
    take_largest_buffer();
    const auto op = runs_ ? ops::upsampling_conv2d : ops::plan_upsampling_conv2d;
    if (count == 1) return op(ctx_, source, conv, shards_.padding(), s_.normed, x());
    // The last stripe first: the result may lie where the source does, of which it takes four times the room.
    const int64_t rows = own / count;
    for (int64_t i = count - 1; i >= 0; --i) {
      const int64_t above = i > 0 ? 1 : 0, below = i + 1 < count ? 1 : 0;
      op(ctx_, source.rows(i * rows - above, above + rows + below), conv, {1 - above, 1, 1 - below, 1}, s_.normed,
         x().rows(2 * i * rows, 2 * rows));
    }
  }

  /// Halves the sides: x = conv with stride 2, padded at the bottom and the right alone.
  void downsample(const Conv2d& conv) {
    const View image = x();
    const int64_t own = rows();
    int64_t count = stripes(channels);
    while (own > 0 && own / 2 % count != 0) ++count;  // a stripe begins where a row of the result does
    const View input = count == 1 ? slab(channels) : shaped(s_.normed, own / count + 1, channels);
    if (count == 1) {
      convert(image, normed(channels));
      if (runs_) shards_.exchange_halo(ctx_, input);
    }
    scale /= 2;
    width /= 2;
    take_largest_buffer();
    if (count == 1) return conv2d(shards_.own_and_below(input), conv, 2, {0, 0, shards_.padding().bottom, 1}, x());
    // The result may lie where the image does: it takes a quarter of the room of the rows that have been read.
    const int64_t step = own / count;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t below = i + 1 < count ? 1 : 0;
      convert(image.rows(i * step, step + below), input.rows(0, step + below));
      if (runs_ && below == 0) ops::clear(ctx_, input.rows(step, 1));
      conv2d(input, conv, 2, {0, 0, 0, 1}, x().rows(i * step / 2, step / 2));
    }
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

  /// \return into how many stripes an input of convolutions with that many channels is divided.
  int64_t stripes(int64_t width_channels) const {
    const int64_t row_bytes = width * width_channels * static_cast<int64_t>(size_bytes(s_.normed.dtype()));
    return stripe_count(shards_, scale, row_bytes, s_.stripe_bytes);
  }

  /// Gathers the sums that apply_norm() normalises by.
  void sum_rows(ConstView image) const {
    if (!runs_) return;
    // The image rows of a latent row lie side by side: to the sums they are one long row, whatever the resolution.
    const Shape shape{shards_.local().count, scale * width, image.shape()[2]};
    ops::group_norm_row_sums(ctx_, image.reshape(shape), shards_.own_of_whole(s_.group_sums));
    shards_.gather(ctx_, {s_.group_sums});
  }

  /// out = group_norm(image), then SiLU, for any rows of the image whose sums were taken.
  void apply_norm(ConstView image, const GroupNormWeights& w, bool silu, View out) const {
    if (runs_)
      ops::group_norm_apply(ctx_, image, s_.group_sums, scale * width, {w.weight, w.bias, kNormEps, silu}, out);
  }

  /// y = 1x1 convolution of x.
  void shortcut(const Conv2d& conv, View y) const {
    const View input = x();
    if (input.dtype() == conv.dtype) return conv2d(input, conv, 1, {}, y);
    const int64_t own = rows() / stripes(channels);
    const View converted = shaped(s_.normed, own, channels);
    for (int64_t first = 0; first < rows(); first += own) {
      convert(input.rows(first, own), converted);
      conv2d(converted, conv, 1, {}, y.rows(first, own));
    }
  }

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
  Watch watch_;
  bool runs_;
  View x_, h_;  ///< the scratch memory that holds the residual stream now, and the other
};

/// Largest number of elements that a buffer must hold on this rank.
struct Sizes {
  const nn::RowShards& shards;
  int64_t element_bytes;  ///< of normed
  int64_t stripe_bytes;
  int64_t x = 0, h = 0, normed = 0;

  void at(int64_t scale, int64_t width, int64_t x_channels, int64_t h_channels) {
    const int64_t pixels = shards.local(scale).count * width;
    x = std::max(x, pixels * (h_channels > x_channels ? x_channels + h_channels : x_channels));
    h = std::max(h, pixels * h_channels);
    for (const int64_t channels : {x_channels, h_channels}) {
      const int64_t count = stripe_count(shards, scale, width * channels * element_bytes, stripe_bytes);
      const int64_t rows = count == 1 ? shards.slab_rows(scale) : shards.local(scale).count / count + 2;
      normed = std::max(normed, rows * width * channels);
    }
  }

  /// Before an upsampling.
  void upsampling(int64_t scale, int64_t width, const Conv2d& conv, int64_t channels) {
    const int64_t row_bytes = kUpsampledPixels * width * channels * element_bytes;
    const int64_t count = stripe_count(shards, scale, row_bytes, stripe_bytes);
    const Shape slab{shards.slab_rows(scale), width, channels},
        middle{shards.local(scale).count / count + 2, width, channels};
    const Shape scratch = count == 1 ? ops::upsampling_scratch(slab, conv, shards.padding())
                                     : ops::upsampling_scratch(middle, conv, {0, 1, 0, 1});
    normed = std::max(normed, scratch.elements());
  }
};

/// \return whether a level's result takes more than half of its image's place, and would overwrite rows of the image
/// that are still to be read. What has more channels has a place of its own. \param channels in the order they run
bool shrinks_by_less_than_half(std::span<const int64_t> channels) {
  for (size_t level = 1; level < channels.size(); ++level)
    if (channels[level] < channels[level - 1] && 2 * channels[level] > channels[level - 1]) return true;
  return false;
}

/// \param groups of a norm. \param attended channels of the middle block's attention, 0 without.
Scratch take_scratch(Arena& arena, int64_t groups, int64_t attended, DType dtype, int64_t latent_width,
                     const Sizes& sizes) {
  const nn::RowShards& shards = sizes.shards;
  Scratch s;
  s.stripe_bytes = sizes.stripe_bytes;
  const DType inner = ops::product_dtype(arena.device(), dtype);
  s.x = take(arena, inner, {sizes.x});
  s.normed = take(arena, dtype, {sizes.normed});
  s.group_sums = take(arena, DType::f64, {shards.rows(), groups, 2});
  const size_t mark = arena.used_bytes();
  if (attended > 0) {
    const int64_t channels = attended, tokens = shards.local().count * latent_width;
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
                                         int64_t latent_width, int64_t stripe_bytes) const {
  check(shards.rows() == latent_height, "a VAE's shards are of its latent rows");
  const std::vector<int64_t>& of_levels = config_.channels_of_decoder();
  const std::vector<int64_t> channels(of_levels.rbegin(), of_levels.rend());
  if (shrinks_by_less_than_half(channels)) stripe_bytes = kNoStripes;
  Sizes sizes{shards, static_cast<int64_t>(size_bytes(dtype_)), stripe_bytes};
  sizes.at(1, latent_width, config_.latent_channels, channels.front());
  // The latents, whole, in float32.
  const int64_t latents = latent_height * latent_width * config_.latent_channels;
  const DType x = ops::product_dtype(arena.device(), dtype_);
  sizes.x = std::max(sizes.x, latents * static_cast<int64_t>(size_bytes(DType::f32) / size_bytes(x)));
  int64_t in = channels.front(), scale = 1;
  for (size_t level = 0; level < channels.size(); ++level) {
    sizes.at(scale, scale * latent_width, in, channels[level]);
    in = channels[level];
    if (level + 1 < channels.size()) {
      sizes.upsampling(scale, scale * latent_width, *weights_.decoder.levels[level].resample, in);
      scale *= 2;
      sizes.at(scale, scale * latent_width, in, 0);
    }
  }
  return take_scratch(arena, config_.norm_groups, config_.mid_attention ? channels.front() : 0, dtype_, latent_width,
                      sizes);
}

Scratch Autoencoder::take_encode_scratch(Arena& arena, const nn::RowShards& shards, int64_t latent_width,
                                         int64_t stripe_bytes) const {
  const std::vector<int64_t>& channels = config_.block_channels;
  if (shrinks_by_less_than_half(channels)) stripe_bytes = kNoStripes;
  Sizes sizes{shards, static_cast<int64_t>(size_bytes(dtype_)), stripe_bytes};
  int64_t in = channels.front(), scale = config_.scale();
  sizes.at(scale, scale * latent_width, config_.image_channels, in);
  // The picture is narrow: its convolution takes it whole.
  sizes.normed = std::max(sizes.normed, shards.slab_rows(scale) * scale * latent_width * config_.image_channels);
  for (size_t level = 0; level < channels.size(); ++level) {
    sizes.at(scale, scale * latent_width, in, channels[level]);
    in = channels[level];
    if (level + 1 < channels.size()) scale /= 2;
  }
  sizes.at(scale, latent_width, 2 * config_.latent_channels, in);
  return take_scratch(arena, config_.norm_groups, config_.mid_attention ? in : 0, dtype_, latent_width, sizes);
}

void Autoencoder::decode(Context& ctx, const nn::RowShards& shards, ConstView latents, const Scratch& scratch,
                         View image, const nn::Probe& probe) const {
  check(shards.rows() == latents.shape()[1] * config_.patch, "a VAE's shards are of its latent rows");
  plan_decode(ctx, shards, latents, scratch, image);
  ops::finish_plans(ctx);
  Pass(ctx, config_, shards, scratch, {probe, "decoder"}, Mode::run).decode(weights_, latents, image);
}

void Autoencoder::plan_decode(Context& ctx, const nn::RowShards& shards, ConstView latents, const Scratch& scratch,
                              View image) const {
  Pass(ctx, config_, shards, scratch, {{}, "decoder"}, Mode::plan).decode(weights_, latents, image);
}

void Autoencoder::encode(Context& ctx, const nn::RowShards& shards, ConstView image, const Scratch& scratch,
                         View moments, const nn::Probe& probe) const {
  check(shards.local().count == moments.shape()[0], "a VAE's shards are of its latent rows");
  for (const Mode mode : {Mode::plan, Mode::run}) {
    Pass(ctx, config_, shards, scratch, {probe, "encoder"}, mode).encode(weights_.encoder, image, moments);
    if (mode == Mode::plan) ops::finish_plans(ctx);
  }
}

void Autoencoder::pack_means(Context& ctx, ConstView moments, View tokens) const {
  ops::pack_latents(ctx, moments, config_.patch, statistics(config_, weights_), tokens);
}

}  // namespace nostos::autoencoder_kl
