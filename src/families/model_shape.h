// Owns what the configs of a model folder say about sizes, for every family. Checks of requests, shard plans and
// previews need it before any weight is there.
#pragma once

#include <cstdint>
#include <string>

#include "base/rounding.h"

namespace nostos {

inline constexpr int64_t kMaxSteps = 1000;
inline constexpr double kMaxGuidance = 1000;

/// How classifier-free guidance of scale g joins the predictions for a positive and a negative prompt.
enum class GuidanceForm {
  none,           ///< not at all: a distilled model has no negative branch, and g no effect
  from_positive,  ///< pos + g (pos - neg), on from above 0: Z-Image
  from_negative,  ///< neg + g (pos - neg), on from above 1: FLUX.2, and what others call the CFG scale
};

/// \return as records write it, e.g. "from_positive".
const char* name(GuidanceForm form);
/// \return the form of that name. \throws Error model for any other.
GuidanceForm parse_guidance_form(const std::string& text);
/// \return whether guidance of this scale is on.
bool guides(GuidanceForm form, double scale);

/// Whether drawings may follow a control image.
enum class ControlSupport {
  none,        ///< the family has no control networks
  not_loaded,  ///< the model was opened without one
  loaded,
};

/// How a mask comes to the size of latents.
enum class MaskScaling {
  nearest,   ///< one pixel for each latent
  bilinear,  ///< the four pixels next to each latent's centre
};

/// What a model draws when the request leaves it open, and what it can draw at all.
struct ModelLimits {
  int64_t size_multiple = 16;  ///< pixels; other sizes are drawn at the next multiple and cropped
  int64_t token_multiple = 1;  ///< to which a shard plan pads the image's rows, see ModelShape::prompt_rows()
  int64_t max_side = 8192;     ///< pixels
  int64_t default_height = 1024;
  int64_t default_width = 1024;
  int64_t default_steps = 8;
  double default_guidance_scale = 0;
  GuidanceForm guidance = GuidanceForm::from_positive;
  int64_t max_sequence_length = 1504;               ///< tokens of a prompt
  int64_t latent_channels = 0;                      ///< 0: not known, and given latents may have any shape
  int64_t pixels_per_latent = 8;                    ///< along one side of a latent element
  int64_t max_reference_images = 0;                 ///< of one request; 0: the model draws from text alone
  int64_t reference_pixels = int64_t{1024} * 1024;  ///< beyond which a reference image is made smaller
  double default_strength = 0.6;                    ///< of a drawing that begins with an image
  double default_mask_strength = 1;                 ///< likewise, where a mask says which part is drawn anew
  ControlSupport control = ControlSupport::none;
  bool control_sees_mask = false;  ///< whether the control network is told which part of an image is drawn anew
};

/// Latents and token sequence of a model, as shard plans, noise and previews need them.
struct ModelShape {
  ModelLimits limits;
  int64_t patch = 0;  ///< latent elements along one side of a token
  int64_t heads = 0;  ///< of each attention layer
  int64_t head_dim = 0;
  /// Whether the latents of an image are drawn from the VAE's posterior, not its mean.
  bool draws_latents = false;
  MaskScaling mask_scaling = MaskScaling::nearest;
  bool pads_prompts = false;     ///< whether every prompt has the rows of the request's max_sequence_length
  int64_t control_channels = 0;  ///< of what Family::to_condition() makes; 0 without a control network
  int64_t control_blocks = 0;    ///< of the control network that one forward pass runs beside the transformer's

  /// \param tokens of a prompt \param max_tokens of the request, see GenerationRequest::max_sequence_length
  /// \return rows of the prompt's embedding.
  int64_t prompt_rows(int64_t tokens, int64_t max_tokens) const {
    return pads_prompts ? max_tokens : round_up(tokens, limits.token_multiple);
  }
  /// \return pixels along one side of a token.
  int64_t token_side() const { return limits.pixels_per_latent * patch; }
  /// \return values of one token of latents.
  int64_t patch_width() const { return patch * patch * limits.latent_channels; }
};

}  // namespace nostos
