// Owns the parts of a loaded model: configs, tokenizer, text encoder, transformer, VAE; each loaded when first needed,
// as the device has room.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "device/context.h"
#include "models/autoencoder_kl/autoencoder.h"
#include "models/qwen3/encoder.h"
#include "models/zimage/transformer.h"
#include "pipeline/memory_plan.h"
#include "pipeline/request.h"
#include "pipeline/schedule.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace nostos {

/// One model folder in the diffusers layout of ZImagePipeline, or the same with random weights.
class ModelParts {
 public:
  /// Reads every config and the tokenizer, and checks names, shapes and dtypes of all weights; loads none yet.
  /// \param dtype of the matrix products: f32 or bf16
  /// \param variant of the weights, see WeightStore::open(); at least one part must have it
  /// \throws Error model naming file and field
  ModelParts(Context& ctx, const std::filesystem::path& folder, bool synthetic, DType dtype,
             const MemoryOptions& memory = {}, const std::string& variant = "");

  const zimage::Config& transformer_config() const { return transformer_config_; }
  const autoencoder_kl::Config& vae_config() const { return vae_config_; }
  const qwen3::Config& encoder_config() const { return encoder_config_; }
  const SchedulerConfig& scheduler_config() const { return scheduler_config_; }
  const ModelLimits& limits() const { return limits_; }
  /// \return the dtype of the matrix products.
  DType dtype() const { return dtype_; }

  /// \param max_tokens beyond which the prompt is cut, at most limits().max_sequence_length.
  /// \return the prompt's token ids. A synthetic model without a tokenizer gets one token a byte.
  PromptTokens tokenize(std::string_view prompt, int64_t max_tokens = kDefaultSequenceLength) const;

  /// \return whether a part is loaded when its stage comes and released after: it saves memory and costs time.
  bool one_at_a_time() const { return one_at_a_time_; }
  /// \return whether that is asked for and needed: not on a GPU that has room for all parts.
  bool wants_one_at_a_time(Context& ctx) const;
  /// \return whether nothing is drawn after the first drawing.
  bool draws_once() const { return memory_.one_drawing; }
  /// Says whether it is done; all ranks do the same. To be called before anything is loaded.
  void set_one_at_a_time(bool is) { one_at_a_time_ = is; }
  /// Loads what drawings of any usual size leave room for, unless parts take turns: all parts, or the VAE alone, which
  /// says what drawings need.
  /// \param with_encoder whether captions are made with these parts. \throws Error model, out_of_memory
  void load_ahead(Context& ctx, bool with_encoder);
  /// Loads the transformer and, if asked for, the encoder. \throws Error model, out_of_memory
  void load(Context& ctx, bool with_encoder);
  /// \return whether there is nothing for load() to do.
  bool is_loaded(bool with_encoder) const { return transformer_ && (encoder_ || !with_encoder); }
  /// On a GPU, decides which weights stay there beside `scratch_bytes` of drawings, and says so in the log. What is
  /// loaded in another way is released. To be called, while nobody uses the parts, before that scratch memory is taken.
  /// \param alone whether one rank draws with these parts: several read memory_plan() at any time, so that it never changes
  /// (resolve_memory() gives them resident weights).
  /// \throws Error out_of_memory
  void make_room(Context& ctx, size_t scratch_bytes, bool alone);
  /// \return how weights are kept when they are loaded.
  const MemoryPlan& memory_plan() const { return plan_; }

  /// Each loads its part on first use. \throws Error model, out_of_memory
  const qwen3::Encoder& encoder(Context& ctx);
  const zimage::Transformer& transformer(Context& ctx);
  const autoencoder_kl::Autoencoder& autoencoder(Context& ctx);

  /// Frees one part's weights; it is loaded again when needed.
  void release_encoder() { encoder_.reset(); }
  void release_transformer() { transformer_.reset(); }
  void release_autoencoder() { autoencoder_.reset(); }

  /// \return bytes of the weights that are loaded now, on the device and in host memory for streaming.
  size_t weight_bytes() const;
  size_t streamed_bytes() const;

 private:
  /// \return bytes that weights and drawings may take of the GPU, beside what is there for good.
  size_t available_bytes(Context& ctx) const;
  /// \return whether a GPU has room for the encoder, the transformer and any usual drawing, and the mode lets them have it.
  bool fits_any_drawing(Context& ctx) const;
  /// The three walks over a part's weights, to check or to load them.
  qwen3::Weights encoder_weights(Context& ctx, StoreSource::Mode mode) const;
  zimage::Weights transformer_weights(Context& ctx, StoreSource::Mode mode) const;
  autoencoder_kl::Weights autoencoder_weights(Context& ctx, StoreSource::Mode mode) const;
  /// \return a builder for the part in folder `part`.
  WeightBuilder builder(Context& ctx, const char* part, StoreSource::Mode mode,
                        const WeightPlacement& placement = {}) const;

  std::filesystem::path folder_;
  std::string variant_;
  bool synthetic_;
  DType dtype_;
  MemoryOptions memory_;
  bool one_at_a_time_ = false;
  WeightSizes encoder_sizes_, transformer_sizes_;
  MemoryPlan plan_;
  zimage::Config transformer_config_;
  qwen3::Config encoder_config_;
  autoencoder_kl::Config vae_config_;
  SchedulerConfig scheduler_config_;
  ModelLimits limits_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<qwen3::Encoder> encoder_;
  std::unique_ptr<zimage::Transformer> transformer_;
  std::unique_ptr<autoencoder_kl::Autoencoder> autoencoder_;
};

}  // namespace nostos
