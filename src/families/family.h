// Owns what the pipeline sees of a model family. A family is a folder beside this file, which implements these classes,
// and a line of registry.cc. Read this file before you add a family; the pipeline calls nothing else of one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/arena.h"
#include "device/context.h"
#include "families/model_files.h"
#include "families/model_part.h"
#include "families/model_shape.h"
#include "families/schedule.h"
#include "io/weight_store.h"
#include "nn/row_shards.h"
#include "nn/sequence_parallel.h"
#include "tensor/tensor.h"
#include "text/chat_template.h"

namespace nostos {

/// What a family is opened with.
struct FamilyOptions {
  ModelFiles files;                ///< where the model is
  DType dtype = DType::f32;        ///< of the matrix products: f32 or bf16
  bool synthetic = false;          ///< random weights of the configs' shapes
  std::string synthetic_format{};  ///< of their matrices, see synthetic_format_of(); "": bf16
  bool synthetic_hostile = false;  ///< whether the transformer's have outliers, see SyntheticKind
  std::string variant{};           ///< of the weights, see WeightStore::open(); at least one part must have it
  bool rounds_products = false;    ///< the transformer's, to 8 bits: see BlockProducts
  bool rounds_text = false;        ///< the text encoder's, likewise
  bool rounds_scores = false;      ///< of the transformer's attention, to 8 bits: see ops::Scoring
  /// Matrices of the transformer whose products stay as they are without rounds_products, see BlockProducts::kept.
  /// None: PartKind::kept_products, unless the part's file has 8-bit matrices.
  std::optional<std::set<std::string>> kept_products{};
  std::shared_ptr<const InputWatch> input_watch{};  ///< of the transformer: see BlockProducts
  /// What is open of `files`: whatever is made with these options, or with a copy of them, opens through it.
  std::shared_ptr<WeightStores> stores = std::make_shared<WeightStores>();
};

/// The parts that the stages of a drawing need, as places in Family::parts().
struct StageParts {
  std::vector<size_t> text;     ///< one for each pass of PromptEncoding
  std::vector<size_t> encode;   ///< all at once, where there are reference images
  std::vector<size_t> denoise;  ///< all at once
  std::vector<size_t> decode;   ///< all at once
  std::vector<size_t> control;  ///< beside those of `denoise`, in drawings by a control network alone

  /// \return what a drawing denoises with.
  std::vector<size_t> denoise_of(bool has_control) const {
    std::vector<size_t> parts = denoise;
    if (has_control) parts.insert(parts.end(), control.begin(), control.end());
    return parts;
  }
};

/// How long a prompt is.
struct PromptLength {
  int64_t tokens = 0;
  int64_t max_tokens = 0;  ///< of the request, to which a family may pad

  friend auto operator<=>(const PromptLength&, const PromptLength&) = default;
};

/// Turns some prompts into embeddings, on one rank. The work is cut into *passes*, each of which needs one part
/// (StageParts::text). The pipeline may load and release parts between passes. Memory is taken before the first pass:
/// memory that lasts from one pass to the next by Family::take_prompts(), memory of a single pass by take_scratch().
class PromptEncoding {
 public:
  virtual ~PromptEncoding() = default;
  /// Takes memory whose contents need not last from one pass to the next.
  virtual void take_scratch(Arena& arena) = 0;
  /// Puts the token ids of the prompts into the scratch memory.
  /// \throws Error model for an id outside the vocabulary
  virtual void take_ids(Context& ctx, std::span<const std::span<const int32_t>> ids) = 0;
  /// Enqueues a pass. The call neither allocates, nor waits, nor reads host memory, so that a pass can be recorded.
  /// \throws Error cancelled
  virtual void run(Context& ctx, size_t pass) = 0;
};

/// What is known of the denoising of a batch of images before anything is computed.
struct DenoiserPlan {
  const nn::SequenceParallel& share;           ///< this rank's share of an image; outlives the denoiser
  std::span<const int64_t> embedding_rows;     ///< of each prompt embedding that there is
  std::span<const size_t> embeddings;          ///< those that this rank's passes read; may name one several times
  std::span<const parallel::Grid> references;  ///< the token grid of each reference image
  int64_t steps = 1;
  bool passes_apart = false;  ///< whether passes run one after the other, which takes less memory
  bool has_control = false;   ///< whether there is a control image
};

/// One forward pass of a step.
struct DenoisePass {
  size_t image = 0;      ///< of the batch: passes with the same one have the same tokens
  size_t embedding = 0;  ///< of those that there are
  ConstView tokens{};    ///< f32 [this rank's image tokens, patch width]: the state, as ops::patchify() lays it out
  View velocity{};       ///< f32, as tokens: what the model predicts
  bool is_controlled = false;  ///< whether the control image has a say: DenoiserPlan::has_control
};

/// Predicts the velocity of images, step by step, on one rank or as one of many. A prediction depends on its own image,
/// embedding and time alone, bit for bit, whatever passes run beside it. All functions enqueue on ctx, and none
/// allocates.
class Denoiser {
 public:
  virtual ~Denoiser() = default;
  /// Takes memory whose contents need not last from one run to the next.
  /// \param passes of the largest step
  virtual void take_scratch(Arena& arena, std::span<const DenoisePass> passes) = 0;
  /// Takes this rank's rows of the embeddings.
  /// \param embeddings f32 [rows, width] of each that there is, whole
  /// \param with_positions whether to fill the rotary tables, too; the tables stay from one run to the next
  virtual void take_embeddings(Context& ctx, std::span<const ConstView> embeddings, bool with_positions) = 0;
  /// Takes this rank's rows of the reference images, if there are any.
  /// \param tokens f32 [tokens of all, patch width], one image after the other, whole
  virtual void take_references(Context& ctx, ConstView tokens) = 0;
  /// Takes this rank's rows of the control image. Called once a run where there is one, and after no predict().
  /// \param condition of Family::to_condition(), whole
  /// \param scales of each step, by which what the control image adds is multiplied
  virtual void take_control(Context& ctx, ConstView condition, std::span<const float> scales) = 0;
  /// Computes, for all steps, what depends on the time alone.
  virtual void take_times(Context& ctx, std::span<const float> times) = 0;
  /// Makes `step`, counted from 0, the step under way. A recording of predict() holds no call of select_step().
  virtual void select_step(Context& ctx, int64_t step) = 0;
  /// velocity <- the model's prediction, of each pass. Waits for the other ranks where there are any.
  /// \throws Error cancelled between blocks, peer_failed
  virtual void predict(Context& ctx, std::span<const DenoisePass> passes) = 0;

  /// \return this rank's rows of a pass with this embedding.
  virtual int64_t rows(size_t embedding) const = 0;
  /// \return floating-point operations of the matrix products of predict(), of all ranks together.
  virtual double flop(std::span<const DenoisePass> passes) const = 0;
};

/// Decodes latents of one size, on one rank or as one of many. Each rank makes some rows of the image.
class Decoder {
 public:
  virtual ~Decoder() = default;
  /// image = this rank's rows of the decoded latents, not clamped. The bits are the same on any number of ranks.
  /// \param latents f32 [channels, height, width], whole
  /// \param image f32 [rows, width in pixels, 3] in about [-1, 1]
  /// \throws Error cancelled between blocks, peer_failed
  virtual void decode(Context& ctx, ConstView latents, View image) const = 0;
  /// Begins to compile, beside other work, what decode() of these arguments runs. Call plan() only while no ranks
  /// exchange anything.
  virtual void plan(Context& ctx, ConstView latents, View image) const = 0;
};

/// Encodes images of one size, on one rank or as one of many. Each rank encodes some rows of the image.
class Encoder {
 public:
  virtual ~Encoder() = default;
  /// encoding = what the VAE says of the image, whole on every rank. The bits are the same on any number of ranks.
  /// \param image f32 [this rank's rows in pixels, width, 3] in [-1, 1]
  /// \param encoding f32 Family::encoding_shape()
  /// \throws Error cancelled between blocks, peer_failed
  virtual void encode(Context& ctx, ConstView image, View encoding) const = 0;
};

/// What a control network is told, of images of the drawn size.
struct ControlInputs {
  ConstView image{};  ///< encoding of the control image; null without
  ConstView known{};  ///< encoding of the image that the drawing begins with, grey where it is drawn anew; null without
  ConstView is_known{};  ///< f32 [latent height, latent width]: 0 what is drawn anew, else 1; null without a mask
};

/// A model of a family: its shape, its parts, and the makers of what draws with the parts. What a maker returns refers
/// to the family, and runs only while the parts of its stage are loaded. The `take_...` functions take memory of an
/// arena. What such a function makes of a measuring arena is good for nothing but measuring.
class Family {
 public:
  Family() = default;
  virtual ~Family() = default;
  Family(const Family&) = delete;  // what a family makes refers to it
  Family& operator=(const Family&) = delete;

  virtual const ModelShape& shape() const = 0;
  /// \return the dtype of the matrix products.
  virtual DType dtype() const = 0;
  /// \param sigmas the user's own noise levels, before shifting, as many as steps; empty: the model's
  /// \param image_tokens of the whole image, references not counted
  /// \return the noise levels of a run.
  virtual Schedule schedule(int64_t steps, std::span<const double> sigmas, int64_t image_tokens) const = 0;
  /// \return the parts in the order in which the stages need them.
  virtual std::span<ModelPart* const> parts() const = 0;
  virtual const StageParts& stage_parts() const = 0;
  /// \return as messages about adapters name the model, e.g. "Z-Image".
  virtual std::string_view name() const = 0;
  /// \return whether prompt embeddings depend on a tensor. \param part as adapters call it, e.g. "text_encoder"
  /// \param tensor by its name in the diffusers layout
  virtual bool embeds_with(std::string_view part, std::string_view tensor) const = 0;
  /// \return inputs and outputs of a layer's largest matrix product, with whose rate a step's rate is compared.
  virtual std::pair<int64_t, int64_t> largest_product() const = 0;

  /// \param max_tokens at most shape().limits.max_sequence_length; a longer prompt is cut
  virtual PromptTokens tokenize(std::string_view prompt, int64_t max_tokens) const = 0;
  /// \return the shape of a prompt's embedding: [rows, width].
  virtual Shape embedding_shape(const PromptLength& prompt) const = 0;
  /// \param prompts the length of each
  /// \param embeddings f32, of all prompts, one after the other
  virtual std::unique_ptr<PromptEncoding> take_prompts(Arena& arena, std::span<const PromptLength> prompts,
                                                       View embeddings) const = 0;
  virtual std::unique_ptr<Denoiser> take_denoiser(Arena& arena, const DenoiserPlan& plan) const = 0;
  /// The parts of the decoding stage must be loaded, because they say what memory decoding needs.
  /// \param shards of the rows of latents [channels, height, width]
  virtual std::unique_ptr<Decoder> take_decoder(Arena& arena, const nn::RowShards& shards, int64_t height,
                                                int64_t width) const = 0;
  /// Likewise of the encoding stage.
  virtual std::unique_ptr<Encoder> take_encoder(Arena& arena, const nn::RowShards& shards, int64_t width) const = 0;
  /// \param grid of an image's tokens
  /// \return the shape of an encoding. Of a family with reference images it is what a Denoiser takes of an image:
  /// [tokens, patch width].
  virtual Shape encoding_shape(const parallel::Grid& grid) const = 0;
  /// latents = those of an encoded image. \param noise f32, of their shape, by which they are drawn where
  /// ModelShape::draws_latents; else null. It may be latents. \param latents f32 [channels, height, width]
  virtual void to_latents(Context& ctx, ConstView encoding, ConstView noise, View latents) const = 0;
  /// condition = what the control network is given, of the VAE's means: nothing is drawn. Of a family with control
  /// networks, with one loaded. \param inputs with a mask only where ModelLimits::control_sees_mask
  /// \param condition f32 [ModelShape::control_channels, latent height, latent width]
  virtual void to_condition(Context& ctx, const ControlInputs& inputs, View condition) const = 0;

  /// Lets what decodes and encodes take less memory from now on, which may take more time. The bits are the same.
  void spare_memory() { spares_memory_ = true; }
  bool spares_memory() const { return spares_memory_; }

 private:
  bool spares_memory_ = false;
};

}  // namespace nostos
