// Owns the parts that several families have: the Qwen3 text encoder and the VAE, and the ways between images and
// latents on the rows of one rank. A family's model calls it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "families/family.h"
#include "families/part_files.h"
#include "models/autoencoder_kl/autoencoder.h"
#include "models/autoencoder_kl/file_layouts.h"
#include "models/qwen3/encoder.h"
#include "models/qwen3/file_layouts.h"
#include "models/synthetic_source.h"
#include "text/tokenizer.h"

namespace nostos {

/// Says in the log how many weights of a part have a shape that rules out products of 8 bits, and how many were turned
/// into 8-bit numbers from another format of few bits.
void tell_of_rounding(std::string_view part, const WeightStorage& loaded);

/// \return options.rounds_scores. \throws Error device if the device cannot attend with such heads rounded
bool rounds_scores(const Context& ctx, const FamilyOptions& options, int64_t head_dim);

/// Makes a part from one walk over its tensors, which checks them now and loads them later: a part that does not fit is
/// found now, not when its stage comes.
/// \param files of the part, which outlive it
/// \param walk called as walk(builder); it returns the network's weights, and may outlive the part
/// \param make called as make(ctx, weights); it returns the network
/// \throws Error model naming every tensor that is missing or misshapen
template <class Network, class Walk, class Make>
std::unique_ptr<ModelPartOf<Network>> make_part(Context& ctx, const PartFiles& files, std::string_view name, Walk walk,
                                                Make make) {
  using Part = ModelPartOf<Network>;
  WeightBuilder check = files.weights(ctx, WeightWalk::check);
  const WeightSizes sizes = walk(check).storage.sizes;
  const auto list = [walk, dtype = files.dtype()](Context& on) {
    const auto source = std::make_shared<ListingSource>();
    WeightBuilder builder(on, source, dtype);
    auto weights = walk(builder);
    return typename Part::Listed{source->shapes(), std::move(weights)};
  };
  const auto lister = [list, kind = &files.kind()] {
    Context host({}, 1);
    auto listed = list(host);
    return AdapterPart{std::string(kind->folder), std::move(listed.shapes), kind->layouts(),
                       std::move(listed.weights.storage.tables)};
  };
  return std::make_unique<Part>(
      name, files.kind().takes_adapters ? files.kind().folder : "", sizes,
      typename Part::Source{
          .make =
              [&files, sizes, walk, make](Context& on, const WeightPlacement& placement) {
                WeightBuilder load = files.weights(on, WeightWalk::load, placement);
                // Convolutions, which parts without blocks have, are packed into memory of their own.
                if (!sizes.blocks.empty()) load.reserve(resident_bytes(sizes, placement));
                auto weights = walk(load);
                tell_of_rounding(files.kind().name, weights.storage);
                return std::make_unique<Network>(make(on, std::move(weights)));
              },
          .list = list,
          .lister = lister,
          .open_reader = [&files](const std::map<std::string, Shape>& shapes) { return files.weight_reader(shapes); }});
}

/// \return the text encoder's config from its tensors' shapes and what a GGUF file says beside them.
JsonConfig guess_text_encoder_config(const TensorShapes& shapes, const WeightStore& store);

inline constexpr std::array<std::string_view, 3> kTextEncoderClasses{"Qwen3Model", "Qwen3ForCausalLM", "qwen3"};
inline constexpr std::array<std::string_view, 2> kVaeClasses{"AutoencoderKL", "AutoencoderKLFlux2"};

/// The text encoder as files have it.
inline constexpr PartKind kTextEncoder{
    "Qwen3 text encoder",
    "text_encoder",
    "--text-encoder",
    &ModelFiles::text_encoder,
    qwen3::file_layouts,
    qwen3::file_prefixes,
    [](const TensorShapes&) { return std::span<const std::string_view>(kTextEncoderClasses); },
    guess_text_encoder_config};

/// The VAE as files have it.
inline constexpr PartKind kVae{
    "VAE",
    "vae",
    "--vae",
    &ModelFiles::vae,
    autoencoder_kl::file_layouts,
    autoencoder_kl::file_prefixes,
    [](const TensorShapes& shapes) {
      return std::span(kVaeClasses).subspan(autoencoder_kl::is_flux2(shapes) ? 1 : 0, 1);
    },
    [](const TensorShapes& shapes, const WeightStore&) { return autoencoder_kl::guess_config(shapes); }};

/// \return where find_tokenizer() finds the tokenizer; "" for a synthetic model without one.
/// \throws Error model likewise
std::filesystem::path find_tokenizer_place(const FamilyOptions& options, const PartFiles& text_encoder);

/// \return the tokenizer of ModelFiles::tokenizer, else of the text encoder's file, else of the model's folder or,
/// where there is no folder, the usual one; nothing for a synthetic model without one.
/// \throws Error model saying where it was looked for, and how to get it
std::optional<Tokenizer> find_tokenizer(const FamilyOptions& options, const PartFiles& text_encoder);

/// \param max_tokens of a prompt, pads included
std::unique_ptr<ModelPartOf<qwen3::Encoder>> make_text_encoder(Context& ctx, const PartFiles& files,
                                                               const qwen3::Config& config, int64_t max_tokens);

std::unique_ptr<ModelPartOf<autoencoder_kl::Autoencoder>> make_vae(Context& ctx, const PartFiles& files,
                                                                   const autoencoder_kl::Config& config);

/// \return the largest inputs of a VAE's convolutions that are made whole, bytes.
inline int64_t stripe_bytes(const Family& family) {
  return family.spares_memory() ? autoencoder_kl::kSmallStripeBytes : autoencoder_kl::kStripeBytes;
}

/// Decodes latents, packed where the VAE packs them.
/// \param shards, here and below, of the rows of these latents; height and width are theirs
class VaeDecoder final : public Decoder {
 public:
  VaeDecoder(Arena& arena, const autoencoder_kl::Autoencoder& vae, const nn::RowShards& shards, int64_t height,
             int64_t width, int64_t stripe_bytes);
  void decode(Context& ctx, ConstView latents, View image) const override;
  void plan(Context& ctx, ConstView latents, View image) const override;

 private:
  const autoencoder_kl::Autoencoder& vae_;
  nn::RowShards shards_;  // of unpacked latents
  autoencoder_kl::Scratch scratch_;
};

/// Encodes images into packed latents: the mean that the VAE gives, nothing is drawn at random.
class PackedMeanEncoder final : public Encoder {
 public:
  PackedMeanEncoder(Arena& arena, const autoencoder_kl::Autoencoder& vae, const nn::RowShards& shards, int64_t width,
                    int64_t stripe_bytes);
  /// \param tokens f32 [tokens, packed channels]
  void encode(Context& ctx, ConstView image, View tokens) const override;

 private:
  const autoencoder_kl::Autoencoder& vae_;
  nn::RowShards packed_, shards_;  // the latter of unpacked latents
  View moments_;                   // f32 [this rank's rows, width, 2 * latent channels], unpacked
  autoencoder_kl::Scratch scratch_;
};

/// Encodes images into the moments of latents, as the VAE gives them.
class MomentsEncoder final : public Encoder {
 public:
  MomentsEncoder(Arena& arena, const autoencoder_kl::Autoencoder& vae, const nn::RowShards& shards, int64_t width,
                 int64_t stripe_bytes);
  /// \param moments f32 [height, width, 2 * latent channels]
  void encode(Context& ctx, ConstView image, View moments) const override;

 private:
  const autoencoder_kl::Autoencoder& vae_;
  nn::RowShards shards_;
  autoencoder_kl::Scratch scratch_;
};

}  // namespace nostos
