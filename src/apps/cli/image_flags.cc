// Implements the flags of pictures that a drawing is made from.
#include "apps/cli/image_flags.h"

#include <algorithm>
#include <utility>

#include "api/input_files.h"
#include "apps/cli/flags.h"
#include "apps/cli/image_files.h"
#include "apps/cli/references_flag.h"
#include "base/error.h"
#include "base/log.h"

namespace nostos::cli {
namespace {

/// \throws Error invalid_input if the model does not take `count` pictures \param given what gives them
void require_as_many(const char* given, int64_t count, const GenerationRequest& request, const ModelLimits& limits) {
  require(limits.max_reference_images > 0 || count <= 1, ErrorKind::invalid_input,
          "{} gives {} pictures: this model takes one, to begin with, and no reference pictures", given, count);
  const bool is_source = count > 0 && (request.strength || request.mask || limits.max_reference_images == 0);
  const bool is_reference = request.mask && limits.max_reference_images > 0;
  require_references(given, count - (is_source && !is_reference ? 1 : 0), limits);
}

void warn_of_others(const std::vector<ReferenceImage>& recorded, const std::vector<ReferenceImage>& given) {
  for (size_t i = 0; i < std::min(recorded.size(), given.size()); ++i)
    if (given[i].sha256 != recorded[i].sha256)
      log_warning("{} is not the picture that the picture of --from was drawn from", given[i].file);
}

}  // namespace

void add_image_flags(CLI::App& command, ImageFlags& flags) {
  command
      .add_option("--image", flags.images,
                  "PNG, JPEG or WebP: what the drawing begins with (--strength, --mask-image; always where the model "
                  "takes no references), else what a model that edits is to look at; may come several times")
      ->type_name("FILE")
      ->allow_extra_args(false);
  add_number(command, "--strength", flags.strength,
             "how much of the drawing is done anew, above 0, at most 1: steps begin as late as that (the model's)");
  command
      .add_option("--mask-image", flags.mask,
                  "picture of the size of --image: what is white in it is drawn anew, the rest is kept")
      ->type_name("FILE");
  add_number(command, "--mask-blur", flags.mask_blur, "radius in pixels over which the mask's edge is soft (0)");
  command.add_option("--image-fit", flags.fit,
                     "how --image and --control-image come to --height and --width: crop, pad or stretch (crop)");
}

void lay_over_images(const ImageFlags& flags, GenerationRequest& request) {
  if (flags.images.size() == 1 && flags.images.front().empty()) {
    request.strength.reset();
    request.mask.reset();
  }
  if (flags.strength) request.strength = flags.strength;
  if (flags.fit) request.image_fit = parse_image_fit(*flags.fit);
  if (flags.mask && flags.mask->empty()) request.mask.reset();
  if (flags.mask && !flags.mask->empty()) request.mask.emplace().image.file = *flags.mask;
  if (!flags.mask_blur) return;
  require(request.mask.has_value(), ErrorKind::invalid_input, "--mask-blur is given without --mask-image");
  request.mask->blur = *flags.mask_blur;
}

void take_images(const ImageFlags& flags, bool is_root, const ModelLimits& limits, GenerationRequest& request) {
  const bool wants_none = flags.images.size() == 1 && flags.images.front().empty();
  if (wants_none || (!flags.images.empty() && !is_root)) request.images.clear();
  if (!is_root) return;
  if (request.mask) {
    ReferenceImage& mask = request.mask->image;
    mask = flags.mask ? read_image(mask.file) : read_recorded_images("--mask-image", {&mask, 1}).front();
  }
  if (wants_none) return;
  const std::vector<ReferenceImage> recorded = std::exchange(request.images, {});
  if (flags.images.empty()) {
    require_as_many("the picture of --from", std::ssize(recorded), request, limits);
    request.images = read_recorded_images("the pictures with --image", recorded);
    return;
  }
  require_as_many("--image", std::ssize(flags.images), request, limits);
  request.images = read_images(flags.images);
  warn_of_others(recorded, request.images);
}

void log_prepared(const ResolvedRequest& resolved) {
  const std::vector<ReferenceImage>& images = resolved.request.images;
  const ImageSize asked{*resolved.request.height, *resolved.request.width};
  if (resolved.has_source && images.front().size != asked)
    log_info("{} of {}x{} is drawn from at {}x{}", images.front().file, images.front().size.width,
             images.front().size.height, asked.width, asked.height);
  if (resolved.has_control() && resolved.request.control->image) {
    const ReferenceImage& followed = *resolved.request.control->image;
    if (followed.size != asked)
      log_info("{} of {}x{} is followed at {}x{}", followed.file, followed.size.width, followed.size.height,
               asked.width, asked.height);
  }
  const size_t first = resolved.has_source ? 1 : 0, shown = resolved.shows_source ? 1 : 0;
  for (size_t i = first; i < images.size(); ++i) {
    const ImageSize prepared = resolved.reference_sizes[i - first + shown];
    if (prepared != images[i].size)
      log_info("{} of {}x{} is given to the model at {}x{}", images[i].file, images[i].size.width,
               images[i].size.height, prepared.width, prepared.height);
  }
}

}  // namespace nostos::cli
