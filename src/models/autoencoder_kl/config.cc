// Reads and checks vae/config.json.
#include "models/autoencoder_kl/config.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"
#include "io/json_config.h"

namespace nostos::autoencoder_kl {

Config load_config(const std::filesystem::path& file) {
  constexpr std::array<std::string_view, 1> kClasses{"AutoencoderKL"};
  constexpr size_t kMaxLevels = 8;
  const JsonConfig json = JsonConfig::load(file);
  json.check_class(kClasses);
  json.require_unquantised();
  const auto bad = [&](std::string_view field, const std::string& what) {
    fail(ErrorKind::model, "{}: field '{}' {}", file.string(), field, what);
  };

  Config config;
  config.image_channels = json.integer_or("in_channels", 3, 1, 4096);
  if (config.image_channels != 3 || json.integer_or("out_channels", 3, 1, 4096) != 3)
    bad("in_channels", "and 'out_channels' must be 3: pictures are RGB");
  config.latent_channels = json.integer_or("latent_channels", 4, 1, 4096);
  config.block_channels = json.integers_or("block_out_channels", {64}, 1, 65536);
  config.layers_per_block = json.integer_or("layers_per_block", 1, 1, 100);
  config.norm_groups = json.integer_or("norm_num_groups", 32, 1, 65536);
  config.mid_attention = json.boolean_or("mid_block_add_attention", true);
  config.quant_conv = json.boolean_or("use_quant_conv", true);
  config.post_quant_conv = json.boolean_or("use_post_quant_conv", true);
  config.scaling_factor = static_cast<float>(json.number_or("scaling_factor", 0.18215, 1e-9, 1e9));
  config.shift_factor = static_cast<float>(json.number_or("shift_factor", 0, -1e9, 1e9));

  if (config.block_channels.empty() || config.block_channels.size() > kMaxLevels) {
    bad("block_out_channels",
        fmt::format("has {} levels, nostos draws with 1 to {}", config.block_channels.size(), kMaxLevels));
  }
  for (const int64_t channels : config.block_channels) {
    if (channels % config.norm_groups != 0) {
      bad("norm_num_groups",
          fmt::format("is {}, which does not divide the {} channels of a level", config.norm_groups, channels));
    }
  }
  const std::string activation = json.string_or("act_fn", "silu");
  if (activation != "silu" && activation != "swish") bad("act_fn", "is not \"silu\", also called \"swish\"");
  const auto check_types = [&](std::string_view field, std::string_view type) {
    const std::vector<std::string> types =
        json.strings_or(field, std::vector<std::string>(config.block_channels.size(), std::string(type)));
    if (types.size() != config.block_channels.size()) bad(field, "does not have one entry a level");
    if (std::any_of(types.begin(), types.end(), [&](const std::string& t) { return t != type; })) {
      bad(field, fmt::format("has an entry other than {}", type));
    }
  };
  check_types("down_block_types", "DownEncoderBlock2D");
  check_types("up_block_types", "UpDecoderBlock2D");
  if (json.has("latents_mean") || json.has("latents_std"))
    bad("latents_mean", "and 'latents_std' are set: nostos scales by one factor");
  return config;
}

}  // namespace nostos::autoencoder_kl
