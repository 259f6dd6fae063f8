// Names every tensor of an AutoencoderKL.
#include "models/autoencoder_kl/weights.h"

#include <string>

namespace nostos::autoencoder_kl {
namespace {

/// Walks either side.
class Walk {
 public:
  Walk(const Config& config, WeightBuilder& builder) : config_(config), builder_(builder) {}

  Conv2d conv(const std::string& name, int64_t out, int64_t in, int64_t kernel) {
    return builder_.conv(name, out, in, kernel);
  }

  GroupNormWeights norm(const std::string& name, int64_t channels) {
    return {builder_.small(name + ".weight", {channels}), builder_.small(name + ".bias", {channels})};
  }

  ResnetWeights resnet(const std::string& name, int64_t in, int64_t out) {
    ResnetWeights w;
    w.norm1 = norm(name + ".norm1", in);
    w.conv1 = conv(name + ".conv1", out, in, 3);
    w.norm2 = norm(name + ".norm2", out);
    w.conv2 = conv(name + ".conv2", out, out, 3);
    if (in != out) w.shortcut = conv(name + ".conv_shortcut", out, in, 1);
    return w;
  }

  MidWeights mid(const std::string& name, int64_t channels) {
    MidWeights w;
    w.first = resnet(name + ".resnets.0", channels, channels);
    if (config_.mid_attention) {
      const std::string attention = name + ".attentions.0.";
      w.attention_norm = norm(attention + "group_norm", channels);
      w.attention.qkv =
          builder_.stacked_with_bias({attention + "to_q", attention + "to_k", attention + "to_v"}, channels, channels);
      w.attention.out = builder_.linear(attention + "to_out.0", channels, channels, true, builder_.dtype());
    }
    w.second = resnet(name + ".resnets.1", channels, channels);
    return w;
  }

  SideWeights encoder() {
    const std::vector<int64_t>& channels = config_.block_channels;
    SideWeights w;
    w.conv_in = conv("encoder.conv_in", channels.front(), config_.image_channels, 3);
    int64_t in = channels.front();
    for (size_t level = 0; level < channels.size(); ++level) {
      const std::string name = "encoder.down_blocks." + std::to_string(level);
      LevelWeights level_weights;
      for (int64_t i = 0; i < config_.layers_per_block; ++i) {
        level_weights.resnets.push_back(
            resnet(name + ".resnets." + std::to_string(i), i == 0 ? in : channels[level], channels[level]));
      }
      in = channels[level];
      if (level + 1 < channels.size()) level_weights.resample = conv(name + ".downsamplers.0.conv", in, in, 3);
      w.levels.push_back(std::move(level_weights));
    }
    w.mid = mid("encoder.mid_block", in);
    w.norm_out = norm("encoder.conv_norm_out", in);
    w.conv_out = conv("encoder.conv_out", 2 * config_.latent_channels, in, 3);
    if (config_.quant_conv) w.quant = conv("quant_conv", 2 * config_.latent_channels, 2 * config_.latent_channels, 1);
    return w;
  }

  SideWeights decoder() {
    const std::vector<int64_t>& of_levels = config_.channels_of_decoder();
    const std::vector<int64_t> channels(of_levels.rbegin(), of_levels.rend());
    SideWeights w;
    if (config_.post_quant_conv) w.quant = conv("post_quant_conv", config_.latent_channels, config_.latent_channels, 1);
    w.conv_in = conv("decoder.conv_in", channels.front(), config_.latent_channels, 3);
    w.mid = mid("decoder.mid_block", channels.front());
    int64_t in = channels.front();
    for (size_t level = 0; level < channels.size(); ++level) {
      const std::string name = "decoder.up_blocks." + std::to_string(level);
      LevelWeights level_weights;
      for (int64_t i = 0; i <= config_.layers_per_block; ++i) {
        level_weights.resnets.push_back(
            resnet(name + ".resnets." + std::to_string(i), i == 0 ? in : channels[level], channels[level]));
      }
      in = channels[level];
      if (level + 1 < channels.size())
        level_weights.resample = builder_.upsampling_conv(name + ".upsamplers.0.conv", in, in);
      w.levels.push_back(std::move(level_weights));
    }
    w.norm_out = norm("decoder.conv_norm_out", in);
    w.conv_out = conv("decoder.conv_out", config_.image_channels, in, 3);
    return w;
  }

 private:
  const Config& config_;
  WeightBuilder& builder_;
};

}  // namespace

Weights build_weights(const Config& config, WeightBuilder& builder) {
  Weights w;
  Walk walk(config, builder);
  w.decoder = walk.decoder();
  w.encoder = walk.encoder();
  if (config.is_packed()) {
    w.latent_mean = builder.small("bn.running_mean", {config.packed_channels()});
    w.latent_var = builder.small("bn.running_var", {config.packed_channels()});
    builder.ignored("bn.num_batches_tracked");  // i64, counts training steps
  }
  w.storage = builder.finish();
  return w;
}

WeightTable weight_table(const Weights& w) {
  WeightTable table;
  for (const SideWeights* side : {&w.decoder, &w.encoder})
    add_places(table, {&side->mid.attention.qkv, &side->mid.attention.out});
  return table;
}

}  // namespace nostos::autoencoder_kl
