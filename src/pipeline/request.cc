// Fills in a request's defaults and checks every field against its limits.
#include "pipeline/request.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "pipeline/reference_images.h"
#include "tensor/finite.h"
#include "tensor/tensor.h"

namespace nostos {
namespace {

/// \return the asked size in pixels, checked. `field` is its name in messages.
int64_t checked_side(const char* field, int64_t pixels, const ModelLimits& limits) {
  require(pixels >= 1, ErrorKind::invalid_input, "{} is {}: it must be at least 1 pixel", field, pixels);
  require(pixels <= limits.max_side, ErrorKind::invalid_input, "{} is {}: this model draws at most {} pixels a side",
          field, pixels, limits.max_side);
  return pixels;
}

/// \return the next multiple of the model's size multiple, which is what gets drawn.
int64_t drawn_side(const char* field, int64_t pixels, const ModelLimits& limits) {
  const int64_t drawn = (pixels - 1) / limits.size_multiple * limits.size_multiple + limits.size_multiple;
  require(drawn <= limits.max_side, ErrorKind::invalid_input,
          "{} is {}: it would be drawn at {}, the next multiple of {}, but this model draws at most {} pixels a side",
          field, pixels, drawn, limits.size_multiple, limits.max_side);
  return drawn;
}

void require_in_range(const char* field, double value, double min, double max) {
  // NaN fails both comparisons.
  require(value >= min && value <= max, ErrorKind::invalid_input, "{} is {}: it must be a number from {} to {}", field,
          value, min, max);
}

void require_valid_adapters(const std::vector<AdapterUse>& adapters) {
  require(adapters.size() <= kMaxAdapters, ErrorKind::invalid_input, "loras has {} entries: at most {} are applied",
          adapters.size(), kMaxAdapters);
  for (const AdapterUse& adapter : adapters)
    require_in_range(fmt::format("the scale of lora '{}'", adapter.name).c_str(), adapter.scale, -kMaxAdapterScale,
                     kMaxAdapterScale);
}

void require_valid_sigmas(const std::vector<double>& sigmas) {
  require(sigmas.size() <= kMaxSteps, ErrorKind::invalid_input, "sigmas has {} levels: at most {} are drawn",
          sigmas.size(), kMaxSteps);
  for (size_t i = 0; i < sigmas.size(); ++i) {
    // Compared as the floats that the schedule uses: a level must not round to 0 or to its neighbour.
    const float sigma = static_cast<float>(sigmas[i]);
    require(sigma > 0 && sigma <= 1, ErrorKind::invalid_input,
            "sigmas[{}] is {}: noise levels are above 0 and at most 1 (the final 0 is added by the schedule)", i,
            sigmas[i]);
    require(i == 0 || sigma < static_cast<float>(sigmas[i - 1]), ErrorKind::invalid_input,
            "sigmas[{}] is {} after {}: noise levels must descend", i, sigmas[i], i == 0 ? 0 : sigmas[i - 1]);
  }
}

/// \throws Error invalid_input unless the latents are those of the drawn size
void require_fitting(const Latents& latents, const ResolvedRequest& resolved, const ModelLimits& limits) {
  if (latents.values == nullptr || limits.latent_channels == 0) return;
  const Tensor& given = *latents.values;
  const Shape wanted{1, limits.latent_channels, resolved.drawn_height / limits.pixels_per_latent,
                     resolved.drawn_width / limits.pixels_per_latent};
  require(given.dtype() == DType::f32 && given.shape() == wanted, ErrorKind::invalid_input,
          "{}: tensor 'latents' is {} {}, this size wants F32 {}", latents.file, name(given.dtype()),
          to_string(given.shape()), to_string(wanted));
  require(is_finite(given), ErrorKind::invalid_input, "{}: tensor 'latents' has values that are no numbers",
          latents.file);
}

/// \return the name of an image in messages. \param role e.g. "image[0]"
std::string field_of(const std::string& role, const ReferenceImage& image) {
  return role + (image.file.empty() ? "" : " (" + image.file + ")");
}

void require_of_its_size(const ReferenceImage& image, const std::string& field) {
  const auto& [file, sha256, size, pixels] = image;
  require(pixels == nullptr || (pixels->height == size.height && pixels->width == size.width), ErrorKind::invalid_input,
          "{} has {}x{} pixels, but its size is said to be {}x{}", field, pixels == nullptr ? 0 : pixels->width,
          pixels == nullptr ? 0 : pixels->height, size.width, size.height);
}

/// Finds out what the images are for. \throws Error invalid_input if the model does not take them
void sort_images(ResolvedRequest& resolved, const ModelLimits& limits) {
  const GenerationRequest& r = resolved.request;
  const bool takes_references = limits.max_reference_images > 0;
  resolved.has_source = !r.images.empty() && (r.strength || r.mask || !takes_references);
  resolved.shows_source = resolved.has_source && r.mask && takes_references;
  require(resolved.has_source || !r.strength, ErrorKind::invalid_input,
          "strength is {}, but no image is given to begin with", r.strength.value_or(0));
  require(resolved.has_source || !r.mask, ErrorKind::invalid_input,
          "mask is given, but no image of which it says what is drawn anew");
  const auto count = std::ssize(r.images) - (resolved.has_source && !resolved.shows_source ? 1 : 0);
  require(count == 0 || takes_references, ErrorKind::invalid_input,
          "image has {} pictures: this model takes one, to begin with, and no reference pictures", r.images.size());
  require(count <= limits.max_reference_images, ErrorKind::invalid_input,
          "image has {} reference pictures: this model takes at most {}", count, limits.max_reference_images);
  require(!resolved.has_source || !std::holds_alternative<Latents>(r.start), ErrorKind::invalid_input,
          "latents are given, and image, too: a drawing begins with one of them");
}

/// \return the size of the image that the drawing begins with, cut down to what the model draws.
ImageSize source_size(const ReferenceImage& image, const ModelLimits& limits) {
  const auto floored = [&](int64_t side) {
    return std::max(side / limits.size_multiple * limits.size_multiple, limits.size_multiple);
  };
  return {floored(image.size.height), floored(image.size.width)};
}

/// \return the step that a drawing of that strength begins with.
/// Source: diffusers pipeline_z_image_img2img.py, get_timesteps()
int64_t first_step_of(double strength, int64_t num_inference_steps) {
  const auto steps = static_cast<double>(num_inference_steps);
  return static_cast<int64_t>(std::max(steps - std::min(steps * strength, steps), 0.0));
}

/// Fills in strength and the step that the drawing begins with.
void resolve_strength(ResolvedRequest& resolved, const ModelLimits& limits) {
  if (!resolved.has_source) return;
  GenerationRequest& r = resolved.request;
  r.strength = r.strength.value_or(r.mask ? limits.default_mask_strength : limits.default_strength);
  require(*r.strength > 0 && *r.strength <= 1, ErrorKind::invalid_input,
          "strength is {}: it must be above 0 and at most 1 (1 draws all of it anew)", *r.strength);
  resolved.first_step = first_step_of(*r.strength, *r.num_inference_steps);
  require(resolved.steps() >= 1, ErrorKind::invalid_input,
          "strength is {}: of {} steps none would be drawn, it must be at least {}", *r.strength,
          *r.num_inference_steps, 1.0 / static_cast<double>(*r.num_inference_steps));
}

/// \throws Error invalid_input if the control network, which is given no image, is told of no mask either
void require_mask_to_tell(const GenerationRequest& r, const ModelLimits& limits) {
  require(r.mask.has_value(), ErrorKind::invalid_input,
          "control has no image to follow: give control.image, or a mask, of which control networks of 33 channels are "
          "told");
  require(limits.control_sees_mask, ErrorKind::invalid_input,
          "control has no image to follow, and this control network has 16 channels and is told of no mask: give "
          "control.image, or load a network of 33 channels");
  require(r.control->preprocessor == Preprocessor::none, ErrorKind::invalid_input,
          "control.preprocessor is {}, but there is no control.image of which it would make anything: leave it out",
          name(r.control->preprocessor));
}

/// \throws Error invalid_input naming the field
void resolve_control(ResolvedRequest& resolved, const ModelLimits& limits) {
  if (!resolved.request.control) return;
  const Control& control = *resolved.request.control;
  require(limits.control != ControlSupport::none, ErrorKind::invalid_input,
          "control is given: there are no control networks for this model, leave it out");
  require(limits.control == ControlSupport::loaded, ErrorKind::invalid_input,
          "control is given, but no control network is loaded: start with --controlnet");
  if (control.image)
    require_of_its_size(*control.image, field_of("control.image", *control.image));
  else
    require_mask_to_tell(resolved.request, limits);
  require_in_range("control.scale", control.scale, 0, kMaxControlScale);
  require_in_range("control.start", control.start, 0, 1);
  require_in_range("control.end", control.end, 0, 1);
  require(
      control.start < control.end, ErrorKind::invalid_input,
      "control.start is {} and control.end {}: the control image has a say from the start to the end, which must be "
      "larger",
      control.start, control.end);
  std::vector<float> scales = control_scales(control, resolved.steps());
  if (std::ranges::any_of(scales, [](float scale) { return scale != 0; })) resolved.control_scales = std::move(scales);
}

/// \return the sizes of what the model looks at. \throws Error invalid_input as prepared_size()
std::vector<ImageSize> reference_sizes(const ResolvedRequest& resolved, const ModelLimits& limits) {
  std::vector<ImageSize> sizes;
  if (resolved.shows_source) sizes.push_back({resolved.drawn_height, resolved.drawn_width});
  const std::vector<ReferenceImage>& images = resolved.request.images;
  for (size_t i = resolved.has_source ? 1 : 0; i < images.size(); ++i)
    sizes.push_back(prepared_size(images[i].size, limits, field_of(fmt::format("image[{}]", i), images[i])));
  return sizes;
}

/// \return the size that is drawn where none is asked for.
ImageSize usual_size(const ResolvedRequest& resolved, const ModelLimits& limits) {
  const std::vector<ReferenceImage>& images = resolved.request.images;
  const std::optional<Control>& control = resolved.request.control;
  if (images.empty() && control && control->image) return source_size(*control->image, limits);
  if (images.empty()) return {limits.default_height, limits.default_width};
  const ReferenceImage& first = images.front();
  return resolved.has_source ? source_size(first, limits)
                             : prepared_size(first.size, limits, field_of("image[0]", first));
}

void require_valid_images(const GenerationRequest& r) {
  for (size_t i = 0; i < r.images.size(); ++i)
    require_of_its_size(r.images[i], field_of(fmt::format("image[{}]", i), r.images[i]));
  if (!r.mask) return;
  require_of_its_size(r.mask->image, field_of("mask", r.mask->image));
  require_in_range("mask_blur", r.mask->blur, 0, kMaxMaskBlur);
}

/// \return the number of nine decimals next to `value`.
double rounded(double value) { return std::round(value * 1e9) / 1e9; }

}  // namespace

ModelLimits any_model_limits() {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  return {.size_multiple = 1,
          .max_side = kNone,
          .max_sequence_length = kNone,
          .max_reference_images = kNone,
          .reference_pixels = kNone,
          .control = ControlSupport::loaded,
          .control_sees_mask = true};
}

bool same_pixels(const ReferenceImage& a, const ReferenceImage& b) {
  if (&a == &b) return true;
  if (a.size != b.size) return false;
  if (!a.sha256.empty() && !b.sha256.empty()) return a.sha256 == b.sha256;
  return a.image != nullptr && b.image != nullptr && (a.image == b.image || *a.image == *b.image);
}

int64_t drawn_steps(const GenerationRequest& request) {
  const int64_t steps = request.num_inference_steps.value();
  return request.strength ? steps - first_step_of(*request.strength, steps) : steps;
}

std::vector<float> control_scales(const Control& control, int64_t steps) {
  std::vector<float> scales;
  const auto all = static_cast<double>(steps);
  for (int64_t step = 0; step < steps; ++step) {
    const auto before = static_cast<double>(step), after = static_cast<double>(step + 1);
    const bool is_within = before / all >= control.start && after / all <= control.end;
    scales.push_back(is_within ? static_cast<float>(control.scale) : 0);
  }
  return scales;
}

ResolvedRequest resolve(const GenerationRequest& request, const ModelLimits& limits) {
  ResolvedRequest resolved{.request = request};
  GenerationRequest& r = resolved.request;

  sort_images(resolved, limits);
  require_valid_images(r);
  const ImageSize usual = usual_size(resolved, limits);
  r.height = checked_side("height", request.height.value_or(usual.height), limits);
  r.width = checked_side("width", request.width.value_or(usual.width), limits);
  resolved.drawn_height = drawn_side("height", *r.height, limits);
  resolved.drawn_width = drawn_side("width", *r.width, limits);
  resolved.reference_sizes = reference_sizes(resolved, limits);

  if (const Latents* const latents = std::get_if<Latents>(&r.start)) require_fitting(*latents, resolved, limits);

  require_valid_adapters(r.adapters);
  require_valid_sigmas(r.sigmas);
  const int64_t levels = static_cast<int64_t>(r.sigmas.size());
  r.num_inference_steps = request.num_inference_steps.value_or(levels > 0 ? levels : limits.default_steps);
  require(*r.num_inference_steps >= 1 && *r.num_inference_steps <= kMaxSteps, ErrorKind::invalid_input,
          "num_inference_steps is {}: it must be from 1 to {}", *r.num_inference_steps, kMaxSteps);
  require(levels == 0 || levels == *r.num_inference_steps, ErrorKind::invalid_input,
          "num_inference_steps is {} but sigmas has {} levels: leave one of them out or make them equal",
          *r.num_inference_steps, levels);
  resolve_strength(resolved, limits);
  resolve_control(resolved, limits);

  r.guidance_scale = request.guidance_scale.value_or(limits.default_guidance_scale);
  require_in_range("guidance_scale", *r.guidance_scale, 0, kMaxGuidance);
  resolved.is_guided = guides(limits.guidance, *r.guidance_scale);
  require_in_range("cfg_normalization", r.cfg_normalization, 0, kMaxGuidance);
  require(r.cfg_normalization == 0 || limits.guidance == GuidanceForm::from_positive, ErrorKind::invalid_input,
          "cfg_normalization is {}: this model has no such cap, leave it out", r.cfg_normalization);
  require(r.cfg_truncation > 0 && r.cfg_truncation <= 1, ErrorKind::invalid_input,
          "cfg_truncation is {}: it must be above 0 and at most 1 (1 never switches guidance off)", r.cfg_truncation);
  require(r.num_outputs >= 1 && r.num_outputs <= kMaxOutputs, ErrorKind::invalid_input,
          "num_outputs is {}: it must be from 1 to {}", r.num_outputs, kMaxOutputs);
  constexpr uint64_t kMaxSeed = std::numeric_limits<uint64_t>::max();
  require(r.seed <= kMaxSeed - static_cast<uint64_t>(r.num_outputs - 1), ErrorKind::invalid_input,
          "seed is {}: with {} pictures, of which picture i has seed + i, it must be at most {}", r.seed, r.num_outputs,
          kMaxSeed - static_cast<uint64_t>(r.num_outputs - 1));
  const int64_t tokens = limits.max_sequence_length;
  r.max_sequence_length = request.max_sequence_length.value_or(std::min(kDefaultSequenceLength, tokens));
  require(*r.max_sequence_length >= 1, ErrorKind::invalid_input,
          "max_sequence_length is {}: it must be at least 1 token", *r.max_sequence_length);
  require(*r.max_sequence_length <= tokens, ErrorKind::invalid_input,
          "max_sequence_length is {}: this model takes prompts of at most {} tokens", *r.max_sequence_length, tokens);
  return resolved;
}

double cfg_scale_of(double guidance_scale, GuidanceForm form) {
  if (!guides(form, guidance_scale)) return 1;
  return rounded(form == GuidanceForm::from_positive ? guidance_scale + 1 : guidance_scale);
}

double guidance_scale_of(double cfg_scale, GuidanceForm form) {
  return form == GuidanceForm::from_positive ? std::max(rounded(cfg_scale - 1), 0.0) : std::max(cfg_scale, 1.0);
}

}  // namespace nostos
