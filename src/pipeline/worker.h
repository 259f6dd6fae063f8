// Owns one rank's part in a drawing: text, noise, denoising, decoding.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/lru_cache.h"
#include "device/context.h"
#include "device/stopwatch.h"
#include "parallel/communicator.h"
#include "pipeline/batch.h"
#include "pipeline/generation.h"
#include "pipeline/model_parts.h"
#include "pipeline/parallelism.h"
#include "pipeline/preview.h"
#include "pipeline/rank_groups.h"
#include "pipeline/rank_memory.h"
#include "pipeline/request.h"
#include "pipeline/sampler.h"
#include "pipeline/step_orders.h"

namespace nostos {

/// Refined captions that outlive their drawing, f32 [padded tokens, hidden] in host memory, by the token ids of their
/// prompt: a prompt that comes again is not encoded again, which at another size and with another seed gives the same
/// bits. Costs are bytes.
using KeptCaptions = LruCache<std::vector<int32_t>, Tensor>;

/// What a rank needs of its process, which it may share with others.
struct WorkerProcess {
  Context& ctx;       ///< with all the process's threads: for what one rank does while the others wait
  ModelParts& parts;  ///< shared; loaded and released by the leader while the others wait
  bool release_parts = false;
  KeptCaptions* captions = nullptr;  ///< rank 0's; null: none are kept
};

/// A rank's stages, in order:
///
///   stage          who works       parts in use            exchanges
///   plan, load     all; leaders    (loaded by the leader)  the captions' lengths
///   text           rank 0          encoder, transformer    refined captions, to all
///   denoise        all             transformer             noise, to all; heads and rows of attention; tokens
///   decode         all             VAE                     halos, sums, keys and values; pixels to rank 0
///
/// The leader of a process loads and releases the parts that its ranks share, all at once or each before its stage
/// (WorkerProcess::release_parts). One worker draws one batch of requests at a time.
class Worker {
 public:
  /// \param ctx this rank's, the process's own or one beside it. \param leads whether this rank is the one of its
  /// process that loads the model.
  Worker(Context& ctx, Communicator& world, const Parallelism& parallelism, WorkerProcess process, bool leads);

  /// Draws requests together. Every rank of the world calls it with the same requests, all of which can be
  /// (draws_together()).
  /// \param progress of each request, called by rank 0 alone; the `cancel` of a single request all ranks watch, other
  /// flags rank 0 alone.
  /// \return of each request; rank 0's have the pictures and what all ranks report.
  /// \throws Error invalid_input (naming the request where there are several), out_of_memory, peer_failed, device_lost;
  /// cancelled once no request is wanted any more
  std::vector<Generation> draw(std::span<const ResolvedRequest> requests, std::span<const Progress> progress);

 private:
  struct DecoderViews {
    View decoded;    ///< f32 [this rank's rows, width, 3]
    View quantized;  ///< u8, likewise
    View invalid;    ///< i32 [pictures]: 1 where a decoded value is not finite
    autoencoder_kl::Scratch scratch;
  };
  /// A picture's place in the results.
  struct PicturePlace {
    size_t request = 0, index = 0;
  };
  /// What a caption is made of.
  struct Prompt {
    std::string text;
    int64_t max_tokens = 0;

    friend bool operator==(const Prompt&, const Prompt&) = default;
  };
  /// Captions that are encoded together.
  struct TextBatch {
    Batch captions;
    qwen3::Scratch encoder;
    zimage::RefineScratch refiner;
  };
  /// A drawing's memory on this rank's device.
  struct Views {
    View captions;  ///< f32 [padded tokens of all captions, hidden]: refined, one after the other
    View features;  ///< f32 [tokens of all, encoder's hidden]; this and what makes captions on rank 0 alone
    std::vector<TextBatch> text;          ///< of captions that are not kept, all in the same memory
    std::vector<View> states;             ///< of each picture, f32 [channels, height, width]
    std::vector<SamplerMemory> samplers;  ///< of each batch, all in the same memory
    PreviewMemory preview;
    DecoderViews decoder;
  };

  bool is_root() const { return groups_.world().rank() == 0; }
  /// \return f32 [channels, height, width] of the drawn size.
  Shape latent_shape() const;
  const GenerationRequest& request_of(const PicturePlace& picture) const;
  Picture& picture_at(const PicturePlace& place);
  /// Finds out what this drawing takes, and lays its memory out.
  void plan();
  /// On the process's leader: has the weights leave room for this drawing, and loads them where they now belong.
  void make_room(size_t scratch_bytes);
  /// \return the plans of the pictures, whose captions become texts_.
  std::vector<PicturePlan> plan_pictures();
  /// \return which caption `prompt` is.
  size_t caption_of(const Prompt& prompt);
  void tokenize();
  /// On rank 0: notes whose prompts were cut, and tells those who follow.
  void tell_truncated();
  /// \param captions for captions and what makes them. \param arena for all else
  Views take_views(Arena& captions, Arena& arena) const;
  void take_text_views(Arena& arena, Views& views) const;
  /// The VAE, which says what it needs, must be loaded: with release_parts it is when its stage comes, not before.
  DecoderViews take_decoder_views(Arena& arena) const;
  void make_captions();
  /// On rank 0: encodes and refines the prompts of a batch, whose parts are loaded, by what was recorded for prompts as
  /// long where there is such.
  void caption_batch(Context& ctx, const TextBatch& batch);
  void encode_batch(Context& ctx, const TextBatch& batch);
  void refine_batch(Context& ctx, const TextBatch& batch);
  /// \return the tokens of each prompt of a batch.
  std::span<const int64_t> lengths_of(const TextBatch& batch) const;
  /// On rank 0: the captions that are kept are taken from there, and copies of the others begin to be made.
  void take_kept_captions(Context& ctx);
  /// On rank 0, when a drawing is done and its copies are there.
  void keep_captions();
  /// state = a picture's noise, or the latents of its request; the same on every rank. \param latents of the host, as state
  void fill_noise(const PicturePlace& place, View latents, View state);
  void denoise();
  void denoise_batch(const Batch& batch, const SamplerPlan& plan, const SamplerMemory& memory);
  void tell_step(std::span<const PicturePlace> batch, double step_ms);
  /// Shows what step `step`, from 1, of a batch predicts, where that is wanted.
  void preview(Previewer& previewer, std::span<const PicturePlace> batch, int64_t step);
  bool is_wanted(const PicturePlace& picture) const { return !made_[picture.request].cancelled; }
  /// Begins to compile what decode() will run, while the picture is being drawn; on one rank.
  void plan_decode();
  void decode();
  /// Runs `work`, which exchanges with the ranks, on a GPU the second time and later by launching what was recorded after
  /// the first, if that can be. `recorded` is forgotten before the memory that `work` is on.
  void run_recorded(Graph& recorded, const std::function<void()>& work);
  /// \return the rows of a drawn picture that `rank` decodes.
  parallel::Range pixel_rows(int rank) const;
  /// The same on all ranks. \param decoded whether all values that became pixels are finite. \throws Error invalid_input
  /// if these or the latents are not
  void require_finite(const PicturePlace& place, bool decoded) const;
  /// Brings a picture's rows home to rank 0. \param drawn on rank 0 the whole with the own rows, elsewhere these alone
  void gather_picture(Image drawn, const PicturePlace& place);
  /// On the process's leader: notes what is loaded now, if it is the most so far.
  void report_weights();
  void report_times();
  void report_ranks(uint64_t bytes_sent);
  /// Runs `work`, which works on ctx, as part of a stage of the report.
  template <class Work>
  void timed(const char* stage, Context& ctx, const Work& work);
  /// Runs `load` on the process's leader, as a stage of its own, while the other ranks wait.
  template <class Load>
  void load(const Load& load);
  void enter_stage(const char* name);

  Context& ctx_;
  WorkerProcess process_;
  bool leads_;
  Parallelism parallelism_;
  RankGroups groups_;
  RankMemory& memory_;
  std::span<const Progress> progress_;
  std::optional<StepOrders> orders_;
  std::vector<Generation> made_;     // of each request
  std::vector<int64_t> steps_told_;  // of each request
  RunReport report_;
  std::vector<PicturePlace> pictures_;
  std::vector<Prompt> texts_;                       // that captions are made of: prompts and negative prompts
  std::vector<PromptTokens> text_tokens_;           // of each, on rank 0
  std::vector<int64_t> caption_lengths_;            // tokens of each, on every rank
  std::vector<int64_t> padded_captions_;            // the same, padded
  std::vector<const Tensor*> kept_;                 // of each on rank 0: null, or the caption that is kept of it
  std::vector<std::pair<size_t, Tensor>> to_keep_;  // captions that this drawing encodes
  std::vector<Batch> batches_;
  std::vector<SamplerPlan> plans_;  // of each batch
  Views views_;
  bool can_record_ = false;  // the same on every rank
  std::vector<Stopwatch> steps_;
  std::vector<std::pair<std::string, Stopwatch>> stages_;  // what has been measured, in order
};

}  // namespace nostos
