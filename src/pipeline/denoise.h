// Owns the denoising stage of a drawing: the images are dealt to batches, and a Sampler denoises each batch. draw()
// calls these functions in the order in which they stand here; the loop over steps is in sampler.h.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "pipeline/batch.h"
#include "pipeline/drawing.h"
#include "pipeline/initial_state.h"
#include "pipeline/preview.h"
#include "pipeline/sampler.h"

namespace nostos {

/// What is known of the denoising of all images before anything is computed.
struct DenoiseBatches {
  std::vector<PicturePlace> places;   ///< of each picture
  std::vector<Batch> batches;         ///< of those that are not done
  std::vector<SamplerPlan> samplers;  ///< of each batch
};

/// Memory of the denoising stage.
struct DenoiseMemory {
  std::vector<View> states;             ///< of each picture, f32 [channels, height, width]: its latents
  std::vector<SamplerMemory> samplers;  ///< of each batch, all in the same memory
  PreviewMemory preview;
  SourceMemory source;
};

/// Deals the images that are not done to batches. Images of a batch have come equally far (Drawing::steps_done).
/// \param pictures of each place
/// \param embedding_rows of each prompt of the drawing
DenoiseBatches plan_batches(Drawing& drawing, std::vector<PicturePlace> places, std::vector<PicturePlan> pictures,
                            const std::vector<int64_t>& embedding_rows);

/// Takes all memory but scratch.
/// \param plan outlives the memory
DenoiseMemory take_denoise_memory(Arena& arena, const Drawing& drawing, const DenoiseBatches& plan);
/// Takes scratch memory. All batches use the same, one after the other.
void take_denoise_scratch(Arena& arena, const DenoiseBatches& plan, DenoiseMemory& memory);

/// What the stages before have made.
struct DenoiseInputs {
  std::vector<ConstView> embeddings;  ///< of each prompt of the drawing
  ConstView references;               ///< f32 [tokens of all reference images, patch width]; null without
  ConstView source;                   ///< encoding of the image that the drawing begins with; null without
  ConstView mask;                     ///< f32 [tokens, patch width] of that image; null without
  ConstView condition;                ///< see Family::to_condition(); null without a control image
};

/// memory.states <- the images' final latents, or those so far where another lane draws on (Drawing::is_left()). Every
/// rank has the latents in drawing.made, too.
/// \param after_first_step called once, while the GPU draws
void denoise(Drawing& drawing, const DenoiseBatches& plan, const DenoiseMemory& memory, const DenoiseInputs& inputs,
             const std::function<void()>& after_first_step);

}  // namespace nostos
