// Reads and checks vae/config.json, and makes one from shapes.
#include "models/autoencoder_kl/config.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"

namespace nostos::autoencoder_kl {

namespace {

/// \throws Error model unless every level of `field` has channels that the norms' groups divide.
void check_levels(const JsonConfig& json, const Config& config, std::string_view field,
                  const std::vector<int64_t>& levels) {
  constexpr size_t kMaxLevels = 8;
  if (levels.empty() || levels.size() > kMaxLevels)
    json.refuse(field, fmt::format("has {} levels, nostos draws with 1 to {}", levels.size(), kMaxLevels));
  if (levels.size() != config.block_channels.size()) json.refuse(field, "has other levels than block_out_channels");
  for (const int64_t channels : levels) {
    if (channels % config.norm_groups != 0) {
      json.refuse("norm_num_groups",
                  fmt::format("is {}, which does not divide the {} channels of a level", config.norm_groups, channels));
    }
  }
}

Config read_config(const JsonConfig& json, bool is_flux2) {
  json.check_class(std::array<std::string_view, 1>{is_flux2 ? "AutoencoderKLFlux2" : "AutoencoderKL"});
  json.require_unquantised();

  Config config;
  config.image_channels = json.integer_or("in_channels", 3, 1, 4096);
  if (config.image_channels != 3 || json.integer_or("out_channels", 3, 1, 4096) != 3)
    json.refuse("in_channels", "and 'out_channels' must be 3: pictures are RGB");
  config.latent_channels = json.integer_or("latent_channels", is_flux2 ? 32 : 4, 1, 4096);
  const std::vector<int64_t> usual = is_flux2 ? std::vector<int64_t>{128, 256, 512, 512} : std::vector<int64_t>{64};
  config.block_channels = json.integers_or("block_out_channels", usual, 1, 65536);
  if (is_flux2) config.decoder_channels = json.integers_or("decoder_block_out_channels", {}, 1, 65536);
  config.layers_per_block = json.integer_or("layers_per_block", is_flux2 ? 2 : 1, 1, 100);
  config.norm_groups = json.integer_or("norm_num_groups", 32, 1, 65536);
  config.mid_attention = json.boolean_or("mid_block_add_attention", true);
  config.quant_conv = json.boolean_or("use_quant_conv", true);
  config.post_quant_conv = json.boolean_or("use_post_quant_conv", true);
  if (is_flux2) {
    const std::vector<int64_t> patch = json.integers_or("patch_size", {2, 2}, 1, 64);
    if (patch.size() != 2 || patch[0] != patch[1] || patch[0] < 2)
      json.refuse("patch_size", "must be two equal numbers from 2");
    config.patch = patch[0];
    config.batch_norm_eps = static_cast<float>(json.number_or("batch_norm_eps", 1e-4, 0, 1));
  }
  config.scaling_factor = static_cast<float>(json.number_or("scaling_factor", 0.18215, 1e-9, 1e9));
  config.shift_factor = static_cast<float>(json.number_or("shift_factor", 0, -1e9, 1e9));

  check_levels(json, config, "block_out_channels", config.block_channels);
  check_levels(json, config, "decoder_block_out_channels", config.channels_of_decoder());
  const std::string activation = json.string_or("act_fn", "silu");
  if (activation != "silu" && activation != "swish") json.refuse("act_fn", "is not \"silu\", also called \"swish\"");
  const auto check_types = [&](std::string_view field, std::string_view type) {
    const std::vector<std::string> types =
        json.strings_or(field, std::vector<std::string>(config.block_channels.size(), std::string(type)));
    if (types.size() != config.block_channels.size()) json.refuse(field, "does not have one entry a level");
    if (std::any_of(types.begin(), types.end(), [&](const std::string& t) { return t != type; })) {
      json.refuse(field, fmt::format("has an entry other than {}", type));
    }
  };
  check_types("down_block_types", "DownEncoderBlock2D");
  check_types("up_block_types", "UpDecoderBlock2D");
  if (json.has("latents_mean") || json.has("latents_std"))
    json.refuse("latents_mean", "and 'latents_std' are set: nostos scales by one factor");
  return config;
}

}  // namespace

Config load_config(const JsonConfig& json) { return read_config(json, false); }

Config load_flux2_config(const JsonConfig& json) { return read_config(json, true); }

bool is_flux2(const TensorShapes& shapes) { return shapes.has("bn.running_mean"); }

JsonConfig guess_config(const TensorShapes& shapes) {
  const bool is_packed = is_flux2(shapes);
  const auto levels = [&](const std::string& blocks) {
    std::vector<int64_t> channels(static_cast<size_t>(shapes.count(blocks, ".resnets.0.conv1.weight")));
    for (size_t level = 0; level < channels.size(); ++level)
      channels[level] = shapes.extent(fmt::format("{}{}.resnets.0.conv1.weight", blocks, level), 0);
    return channels;
  };
  const std::vector<int64_t> encoder = levels("encoder.down_blocks.");
  std::vector<int64_t> decoder = levels("decoder.up_blocks.");
  std::ranges::reverse(decoder);
  const int64_t layers = shapes.count("encoder.down_blocks.0.resnets.", ".conv1.weight");
  const int64_t latent = shapes.extent("decoder.conv_in.weight", 1), wanted = is_packed ? 32 : 16;
  if (encoder != std::vector<int64_t>{128, 256, 512, 512} || layers != 2 || latent != wanted)
    shapes.refuse(
        fmt::format("it has {} latent channels and {} layers on each level of the encoder, of {} channels, not "
                    "{}, 2 and 128, 256, 512, 512",
                    latent, layers, fmt::join(encoder, ", "), wanted));
  const std::string own = is_packed ? R"("_class_name": "AutoencoderKLFlux2", "patch_size": [2, 2],
                                        "batch_norm_eps": 1e-4)"
                                   : R"("_class_name": "AutoencoderKL", "scaling_factor": 0.3611,
                                        "shift_factor": 0.1159)";
  return JsonConfig::parse(
      fmt::format(R"({{{}, "in_channels": {}, "out_channels": {}, "latent_channels": {}, "block_out_channels": [{}],
                       "decoder_block_out_channels": [{}], "layers_per_block": {}, "norm_num_groups": 32,
                       "mid_block_add_attention": {}, "use_quant_conv": {}, "use_post_quant_conv": {}}})",
                  own, shapes.extent("encoder.conv_in.weight", 1), shapes.extent("decoder.conv_out.weight", 0), latent,
                  fmt::join(encoder, ", "), fmt::join(decoder == encoder ? std::vector<int64_t>{} : decoder, ", "),
                  layers, shapes.has("decoder.mid_block.attentions.0.to_q.weight"), shapes.has("quant_conv.weight"),
                  shapes.has("post_quant_conv.weight")),
      shapes.config_name());
}

}  // namespace nostos::autoencoder_kl
