// A server as `nostos serve` starts it, with a stand-in for the model: one that takes up to four reference pictures.
//
// Use: stand_in_server serve --port 0 --data-dir FOLDER. A picture is drawn at once. It shows the first pixels of its
// images, a column each, then the first and the last pixel of its mask, and is black without any; one whose prompt is
// "wait" is drawn until it is cancelled.
#include <algorithm>
#include <cstring>
#include <string>
#include <thread>

#include "apps/server/server.h"
#include "base/error.h"
#include "pipeline/reference_images.h"

namespace {

using namespace nostos;

const ModelLimits kModel{.default_height = 64,
                         .default_width = 64,
                         .default_steps = 2,
                         .max_reference_images = 4,
                         .reference_pixels = int64_t{256} * 256};

Image drawn(const GenerationRequest& request) {
  const int64_t height = *request.height, width = *request.width;
  Image image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  int64_t column = 0;
  const auto add = [&](const uint8_t* pixel) {
    for (int64_t y = 0; y < height; ++y) std::copy_n(pixel, 3, image.rgb.begin() + (y * width + column) * 3);
    ++column;
  };
  for (const ReferenceImage& reference : request.images)
    add(prepare_reference(*reference.image, kModel, "image").rgb.data());
  if (request.mask) {
    const std::vector<uint8_t>& mask = request.mask->image.image->rgb;
    add(mask.data());
    add(mask.data() + mask.size() - 3);
  }
  return image;
}

std::vector<Generation> draw(std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                             const Lane&, const LaneChange&) {
  std::vector<Generation> made(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const GenerationRequest& request = requests[i];
    while (request.prompt == "wait" && !*progress[i].cancel) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    made[i].cancelled = *progress[i].cancel;
    for (int64_t n = 0; n < request.num_outputs && !made[i].cancelled; ++n)
      made[i].pictures.push_back(
          {.image = drawn(request), .latents = {}, .seed = request.seed + static_cast<uint64_t>(n)});
  }
  return made;
}

}  // namespace

int main(int argc, char** argv) {
  server::hold_end_signals();
  server::ServerOptions options;
  options.port = 0;
  options.shutdown_grace = std::chrono::milliseconds(100);
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--data-dir") == 0) options.data_dir = argv[i + 1];
    if (std::strcmp(argv[i], "--keep-pictures") == 0) options.keep.pictures = std::stoll(argv[i + 1]);
  }
  server::Server server(options);
  server::LoadedModel model;
  model.name = model.full_name = "stand-in";
  model.device = "cpu";
  model.limits.model = kModel;
  model.limits.max_pixels = int64_t{2048} * 2048;
  model.limits.model_name = "stand-in";
  model.limits.precision = "f32";
  server.run(std::move(model), {.draw = draw,
                                .pictures_at_once = [](const GenerationRequest&) { return int64_t{4}; },
                                .takes_together =
                                    [](const GenerationRequest& a, const GenerationRequest& b) {
                                      return draws_together(resolve(a, kModel), resolve(b, kModel));
                                    }});
}
