// Draws an image with nostos's C interface:  draw_c PROMPT OUTPUT.png
#include <nostos.h>
#include <stdio.h>
#include <stdlib.h>

// Takes the place of the error, because an argument may be read before the call that sets it.
static void check(nostos_status status, nostos_error** error) {
  if (status == NOSTOS_OK) return;
  fprintf(stderr, "error %d: %s\n", (int)status, nostos_error_message(*error));
  nostos_error_free(*error);
  exit(EXIT_FAILURE);
}

static int show_step(void* user, int64_t step, int64_t steps, double step_ms) {
  (void)user;
  fprintf(stderr, "step %d of %d took %.0f ms\n", (int)step, (int)steps, step_ms);
  return 0;  // anything else would end the drawing
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s PROMPT OUTPUT.png\n", argv[0]);
    return EXIT_FAILURE;
  }
  nostos_error* error = NULL;

  // Without a model_path the small model draws that comes with nostos.
  nostos_options* options = nostos_options_new();
  nostos_pipeline* pipeline = NULL;
  check(nostos_pipeline_open(options, &pipeline, &error), &error);
  nostos_options_free(options);

  nostos_request* request = nostos_request_new();
  check(nostos_request_set_text(request, "prompt", argv[1], &error), &error);
  check(nostos_request_set_integer(request, "height", 256, &error), &error);
  check(nostos_request_set_integer(request, "width", 256, &error), &error);
  nostos_request_set_seed(request, 7);
  nostos_request_on_step(request, show_step, NULL);

  nostos_result* result = NULL;
  check(nostos_generate(pipeline, request, &result, &error), &error);
  check(nostos_result_write(result, 0, argv[2], &error), &error);

  const nostos_image image = nostos_result_image(result, 0);
  printf("%s: %dx%d, its first pixel is #%02x%02x%02x\n", argv[2], (int)image.width, (int)image.height, image.rgb[0],
         image.rgb[1], image.rgb[2]);

  nostos_result_free(result);
  nostos_request_free(request);
  nostos_pipeline_free(pipeline);
  return EXIT_SUCCESS;
}
