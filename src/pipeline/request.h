// Owns what a user asks for: one generation request, and the checks of its fields against a model's limits. resolve()
// checks sizes, steps, guidance, tokens and the shape of given latents. Engine calls it before it draws.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "families/model_shape.h"
#include "io/image.h"
#include "io/preprocess.h"
#include "io/resample.h"
#include "pipeline/noise.h"

namespace nostos {

inline constexpr int64_t kMaxOutputs = 64;
inline constexpr int64_t kDefaultSequenceLength = 512;  ///< the reference pipeline's max_sequence_length

class Tensor;

/// What GenerationRequest::rng makes from the seed.
struct Noise {};

/// Latents in the place of noise, the same for all pictures of a request.
struct Latents {
  std::string file{};  ///< that they were read from, as messages and records name it
  /// float32 [1, channels, height, width] of the drawn size, finite. Null in processes other than rank 0's, which sends
  /// them.
  std::shared_ptr<const Tensor> values{};
};

/// An image that a model looks at while it draws, or that a drawing begins with, as it was given. reference_images.h
/// and source_image.h say what is made of it.
struct ReferenceImage {
  std::string file{};  ///< that it was read from, as messages and records name it; may be empty
  /// Of the file's bytes, see base/sha256.h. Empty: not known; then ranks that are processes draw a request by itself.
  std::string sha256{};
  ImageSize size{};  ///< as it is shown, with the file's orientation applied
  /// 8-bit RGB of that size. Null in processes other than rank 0's, which alone reads it.
  std::shared_ptr<const Image> image{};
};

/// \return whether both are the same picture: what two files are called does not matter.
bool same_pixels(const ReferenceImage& a, const ReferenceImage& b);

/// Which part of the image that a drawing begins with is drawn anew.
struct Mask {
  ReferenceImage image{};  ///< grey: white is drawn anew, black is kept
  double blur = 0;         ///< radius in pixels of the image that is drawn; 0: a hard edge
};
inline constexpr double kMaxMaskBlur = 256;

/// What a control network has the drawing follow: edges, depth or the like.
struct Control {
  /// None: the network is told of the mask alone, and of what that keeps of the image that the drawing begins with.
  std::optional<ReferenceImage> image{};
  double scale = 0.75;                             ///< by which what the network adds is multiplied
  double start = 0, end = 1;                       ///< the part of the steps in which it adds: see control_scales()
  Preprocessor preprocessor = Preprocessor::none;  ///< what makes the control image of the image, at the drawn size
};
inline constexpr double kMaxControlScale = 10;

/// \return of each of `steps` steps what the network's hints are multiplied by: the scale in step i, from 0, where
/// start <= i / steps and (i + 1) / steps <= end, and 0 elsewhere.
/// Source: diffusers pipeline_controlnet.py, controlnet_keep
std::vector<float> control_scales(const Control& control, int64_t steps);

/// An adapter file, such as a LoRA, whose changes the model's weights have while a request is drawn.
struct AdapterUse {
  std::string name{};    ///< as prompts, records and messages name it
  std::string file{};    ///< its path, which every process reads
  std::string sha256{};  ///< of the file's bytes, see base/sha256.h
  double scale = 1;      ///< by which the changes are multiplied; with 0 the file has no effect

  friend bool operator==(const AdapterUse&, const AdapterUse&) = default;
};
inline constexpr size_t kMaxAdapters = 64;
inline constexpr double kMaxAdapterScale = 100;

/// One prompt to be drawn, one or several times. Fields left empty take the model's defaults when the request is
/// resolved.
struct GenerationRequest {
  std::string prompt{};
  std::string negative_prompt{};
  /// References, in the order in which the model is given them. The first one is the image that the drawing begins with
  /// where `strength` or `mask` is given, or the model takes no references.
  std::vector<ReferenceImage> images{};
  std::optional<double> strength{};     ///< how much of the drawing is done anew: above 0, 1 is all of it
  std::optional<Mask> mask{};           ///< of the image that the drawing begins with
  ImageFit image_fit = ImageFit::crop;  ///< how the image that the drawing begins with comes to the asked size
  /// What the drawing follows, brought to its size as the image that the drawing begins with.
  std::optional<Control> control{};
  std::vector<AdapterUse> adapters{};  ///< all at once; one may come several times
  /// Pixels; empty: that of the first prepared image, if any, or else of the control image.
  std::optional<int64_t> height{};
  std::optional<int64_t> width{};                ///< likewise
  std::optional<int64_t> num_inference_steps{};  ///< transformer calls; as many as `sigmas` where both are given
  std::optional<double> guidance_scale{};        ///< 0 switches classifier-free guidance off
  double cfg_normalization = 0;  ///< cap of |prediction| as a multiple of |positive prediction|; 0: none
  double cfg_truncation = 1;     ///< guidance is off once t = 1 - sigma exceeds this, in (0, 1]
  uint64_t seed = 42;            ///< picture i uses seed + i, which stays below 2^64
  int64_t num_outputs = 1;
  RngKind rng = RngKind::torch_cpu;
  std::vector<double> sigmas{};  ///< descending noise levels in (0, 1] before shifting; empty: the schedule's own
  std::variant<Noise, Latents> start{};          ///< what denoising starts from
  std::optional<int64_t> max_sequence_length{};  ///< tokens of a prompt, and of a negative one, beyond which it is cut
};

/// \return limits that no model goes beyond: what they refuse, every model does.
ModelLimits any_model_limits();

/// A request with every default filled in and every field checked.
struct ResolvedRequest {
  GenerationRequest request{};  ///< all optionals set
  bool is_guided = false;       ///< whether a negative prompt takes part
  int64_t drawn_height = 0;     ///< pixels, multiples of ModelLimits::size_multiple
  int64_t drawn_width = 0;
  /// Whether request.images[0] is what the drawing begins with.
  bool has_source = false;
  /// Whether the model looks at it, too, before all references.
  bool shows_source = false;
  /// Step of the schedule that the drawing begins with.
  int64_t first_step = 0;
  /// control_scales() of the steps that are drawn; empty where the control image has a say in none.
  std::vector<float> control_scales{};
  /// Of what the model looks at, once it is prepared (reference_images.h): of the images but the source, before them of
  /// the source if it is shown.
  std::vector<ImageSize> reference_sizes{};

  /// \return steps that are drawn.
  int64_t steps() const { return *request.num_inference_steps - first_step; }
  bool has_control() const { return !control_scales.empty(); }
};

/// \param request resolved \return steps that are drawn, as ResolvedRequest::steps().
int64_t drawn_steps(const GenerationRequest& request);

/// \throws Error invalid_input naming the first field that is out of range, its value and what would be right. Of
/// reference images the field is `image`, and the message names the picture.
ResolvedRequest resolve(const GenerationRequest& request, const ModelLimits& limits);

/// The usual classifier-free guidance is neg + s (pos - neg): a guidance scale g `from_positive` is s = g + 1, one
/// `from_negative` is s. Both functions round to nine decimals: s = 1.01 is g = 0.01, not 0.010000000000000009.
/// \return the usual scale s of g; 1 is off.
double cfg_scale_of(double guidance_scale, GuidanceForm form);
/// \return the g of the usual scale, which is off for a scale of 1 and less.
double guidance_scale_of(double cfg_scale, GuidanceForm form);

}  // namespace nostos
