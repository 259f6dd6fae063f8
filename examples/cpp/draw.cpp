// Draws an image with nostos's C++ interface, then another one that begins with it:  draw_cpp PROMPT FIRST.png SECOND.png
#include <cstdio>
#include <cstdlib>
#include <nostos.hpp>
#include <thread>

namespace {

/// Draws until a second thread ends the drawing after its first step.
void draw_and_cancel(nostos::Pipeline& pipeline) {
  const nostos::Cancel cancel;
  std::thread other;
  nostos::Progress progress;
  progress.on_step = [&](int64_t step, int64_t, double) {
    if (step == 1) other = std::thread([cancel] { cancel.set(); });
  };
  try {
    pipeline.generate({.prompt = "a cat", .num_inference_steps = 1000}, progress, cancel);
  } catch (const nostos::Cancelled&) {
    std::puts("cancelled");
  }
  other.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s PROMPT FIRST.png SECOND.png\n", argv[0]);
    return EXIT_FAILURE;
  }
  try {
    nostos::Options options;
    options.on_log = [](nostos::LogLevel, const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); };
    nostos::Pipeline pipeline(options);

    const nostos::Result first = pipeline.generate({.prompt = argv[1], .height = 256, .width = 256, .seed = 7});
    first.write(0, argv[2]);

    // Pixels go in as they come out.
    nostos::Request again{.prompt = argv[1], .seed = 8};
    again.images = {first.image(0)};
    again.strength = 0.5;
    pipeline.generate(again).write(0, argv[3]);

    draw_and_cancel(pipeline);
  } catch (const nostos::Error& error) {
    std::fprintf(stderr, "error %d: %s\n", error.status(), error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
