// Implements the flags of the image that a drawing follows.
#include "apps/cli/control_flags.h"

#include "api/input_files.h"
#include "apps/cli/flags.h"
#include "apps/cli/image_files.h"
#include "base/error.h"
#include "base/log.h"

namespace nostos::cli {

void add_control_flags(CLI::App& command, ControlFlags& flags) {
  command
      .add_option("--control-image", flags.image,
                  "picture of edges, depth, a pose or the like that the drawing follows, by --controlnet")
      ->type_name("FILE");
  add_number(command, "--control-scale", flags.scale, "how closely: 0 not at all, 0.65 to 1 is usual (0.75)");
  add_number(command, "--control-start", flags.start, "part of the steps after which it begins to follow, from 0 (0)");
  add_number(command, "--control-end", flags.end, "part of the steps after which it ceases to, at most 1 (1)");
  command.add_option("--control-preprocessor", flags.preprocessor,
                     "what is made of --control-image first: none, canny (edges), gray or tile (colours without "
                     "detail) (none)");
}

void lay_over_control(const ControlFlags& flags, GenerationRequest& request) {
  if (flags.image && flags.image->empty()) request.control.reset();
  if (flags.image && !flags.image->empty()) {
    if (!request.control) request.control.emplace();
    if (!request.control->image) request.control->image.emplace();
    request.control->image->file = *flags.image;
  }
  const auto lay_over = [&](const char* flag, const auto& given, const auto& set) {
    if (!given) return;
    require(request.control || request.mask, ErrorKind::invalid_input,
            "{} is given without --control-image, and without --mask-image, of which a network may be told alone",
            flag);
    if (!request.control) request.control.emplace();
    set(*request.control, *given);
  };
  lay_over("--control-scale", flags.scale, [](Control& control, double scale) { control.scale = scale; });
  lay_over("--control-start", flags.start, [](Control& control, double start) { control.start = start; });
  lay_over("--control-end", flags.end, [](Control& control, double end) { control.end = end; });
  lay_over("--control-preprocessor", flags.preprocessor,
           [](Control& control, const std::string& name) { control.preprocessor = parse_preprocessor(name); });
}

void take_control(const ControlFlags& flags, bool is_root, const ModelLimits& limits, GenerationRequest& request) {
  if (!is_root || !request.control || !request.control->image || limits.control != ControlSupport::loaded) return;
  ReferenceImage& image = *request.control->image;
  if (!flags.image) {
    image = read_recorded_images("--control-image", {&image, 1}).front();
    return;
  }
  const std::string recorded = image.sha256;
  image = read_image(image.file);
  if (!recorded.empty() && image.sha256 != recorded)
    log_warning("{} is not the control image of the picture of --from", image.file);
}

}  // namespace nostos::cli
