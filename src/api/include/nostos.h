// nostos's C interface: open a pipeline, describe a request, draw it, read the result.
//
// Errors. A function that can fail returns a nostos_status. Its last parameter may be null; otherwise, where the status
// is not NOSTOS_OK, `*error` becomes an error with a message that names the field, what was wrong and what would be
// right. The caller frees it. Where the status is NOSTOS_OK, `*error` becomes null.
//
// Lifetimes. Every handle that a function makes is the caller's, who frees it with the function of its name. A _free()
// takes null. What a function is given, it copies: texts, pixels, options and requests may be freed or changed as soon
// as the function has returned. Pointers that a handle gives away point into the handle, and are good until it is
// freed.
//
// Threads. A pipeline may be used by any number of threads; their drawings take turns. A nostos_cancel may be used by
// any number of threads, too. Another handle is used by one thread at a time. Nothing is kept outside of handles.
//
// Growth. Fields are named by texts, with the names that the flags of `nostos generate` have, underscores for hyphens
// (docs/cli.md says what each means); so new fields need no new functions. A function or a field, once released, stays
// until the number in the library's name changes. Callers take any nostos_status that they do not know for a failure.
#ifndef NOSTOS_H
#define NOSTOS_H

#include <stddef.h>
#include <stdint.h>

#define NOSTOS_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nostos_status {
  NOSTOS_OK = 0,
  NOSTOS_INVALID_INPUT = 1,  // of a field, a value or a file that the caller can mend
  NOSTOS_MODEL = 2,          // a model that is missing, damaged or of an unknown kind
  NOSTOS_DEVICE = 3,         // an unsupported or missing device
  NOSTOS_DEVICE_LOST = 4,    // a device that failed, and is lost to this process
  NOSTOS_OUT_OF_MEMORY = 5,  // host or device memory is exhausted
  NOSTOS_PEER_FAILED = 6,    // one of the ranks failed; open the pipeline anew
  NOSTOS_INTERNAL = 7,       // a bug in nostos, or a full disk
  NOSTOS_CANCELLED = 8       // nostos_cancel_set() was called, or a callback ended the drawing
} nostos_status;

typedef enum nostos_log_level {
  NOSTOS_LOG_DEBUG = 0,
  NOSTOS_LOG_INFO = 1,
  NOSTOS_LOG_WARNING = 2,
  NOSTOS_LOG_ERROR = 3
} nostos_log_level;

typedef struct nostos_error nostos_error;
typedef struct nostos_options nostos_options;
typedef struct nostos_pipeline nostos_pipeline;
typedef struct nostos_request nostos_request;
typedef struct nostos_cancel nostos_cancel;
typedef struct nostos_result nostos_result;

// Pixels of somebody else: 8-bit RGB, row by row without gaps, height * width * 3 bytes. This struct will not change.
typedef struct nostos_image {
  const uint8_t* rgb;
  int64_t height;
  int64_t width;
} nostos_image;

// Returns the version of the library, e.g. "0.1.0".
NOSTOS_API const char* nostos_version(void);

// --- Errors ---------------------------------------------------------------------------------------------------------

NOSTOS_API nostos_status nostos_error_status(const nostos_error* error);
NOSTOS_API const char* nostos_error_message(const nostos_error* error);  // UTF-8, one sentence or several
NOSTOS_API void nostos_error_free(nostos_error* error);

// --- Options: which model, and where and how it runs ----------------------------------------------------------------

// Returns options of which none is set: the embedded model, on a GPU if there is a usable one. Null: out of memory.
NOSTOS_API nostos_options* nostos_options_new(void);

// Sets a text. Fields: model_path, revision, variant, transformer, text_encoder, vae, tokenizer, controlnet, device,
// precision, text_precision, attention_precision, memory, sp_plan, exchange, and beside the flags:
//   cache_dir   folder for what trials find out; "" keeps nothing (as the program: NOSTOS_CACHE_DIR, ~/.cache/nostos)
//   models_dir  folder of the models that come with nostos (NOSTOS_MODELS_DIR, else where the library is installed)
NOSTOS_API nostos_status nostos_options_set_text(nostos_options* options, const char* field, const char* value,
                                                 nostos_error** error);
// Sets a whole number. Fields: threads, num_gpus, ulysses_degree, ring_degree, cfg_parallel_degree, and with 1 or 0 for
// yes or no base_model, allow_shared_gpu.
NOSTOS_API nostos_status nostos_options_set_integer(nostos_options* options, const char* field, int64_t value,
                                                    nostos_error** error);
// Sets a number. Fields: memory_limit (GiB), comm_timeout (seconds).
NOSTOS_API nostos_status nostos_options_set_real(nostos_options* options, const char* field, double value,
                                                 nostos_error** error);

// One line of a pipeline's log. Any thread may make the call, several at once; the message is good for the call alone.
typedef void (*nostos_log_function)(void* user, nostos_log_level level, const char* message);
// Has the pipelines that are opened with these options call `log` with messages of level `lowest` and above, as long as
// they are open. Without it a pipeline logs nothing. A null `log` takes it back.
NOSTOS_API void nostos_options_on_log(nostos_options* options, nostos_log_level lowest, nostos_log_function log,
                                      void* user);

NOSTOS_API void nostos_options_free(nostos_options* options);

// --- Pipelines: loaded models ---------------------------------------------------------------------------------------

// Loads the model. Its ranks are threads of this process. On failure `*pipeline` becomes null.
NOSTOS_API nostos_status nostos_pipeline_open(const nostos_options* options, nostos_pipeline** pipeline,
                                              nostos_error** error);

// Returns a JSON object that says what the pipeline draws with, and what it draws where a request leaves it open:
// version, model, device, ranks, precision, size_multiple, max_side, height, width, num_inference_steps,
// guidance_scale, guidance ("none", "from_positive" or "from_negative"), max_sequence_length, max_reference_images,
// has_control.
NOSTOS_API const char* nostos_pipeline_info(const nostos_pipeline* pipeline);

// Releases the model. No thread may use the pipeline any more, and main() must not have ended.
NOSTOS_API void nostos_pipeline_free(nostos_pipeline* pipeline);

// --- Cancelling -----------------------------------------------------------------------------------------------------

// Returns a flag that requests can share. Null: out of memory.
NOSTOS_API nostos_cancel* nostos_cancel_new(void);
// Has the drawings of all requests with this flag end soon with NOSTOS_CANCELLED, those to come as well. A signal
// handler may call it.
NOSTOS_API void nostos_cancel_set(nostos_cancel* cancel);
NOSTOS_API int nostos_cancel_is_set(const nostos_cancel* cancel);
// The requests and drawings that have the flag keep it.
NOSTOS_API void nostos_cancel_free(nostos_cancel* cancel);

// --- Requests -------------------------------------------------------------------------------------------------------

// Returns a request of which no field is set: the model's defaults. Null: out of memory.
NOSTOS_API nostos_request* nostos_request_new(void);

// Sets a text. Fields: prompt, negative_prompt, rng, image_fit, control_preprocessor, and latents (a file's path).
NOSTOS_API nostos_status nostos_request_set_text(nostos_request* request, const char* field, const char* value,
                                                 nostos_error** error);
// Sets a whole number. Fields: height, width, num_inference_steps, num_outputs, max_sequence_length.
NOSTOS_API nostos_status nostos_request_set_integer(nostos_request* request, const char* field, int64_t value,
                                                    nostos_error** error);
// Sets a number. Fields: guidance_scale, cfg_normalization, cfg_truncation, strength, mask_blur, control_scale,
// control_start, control_end.
NOSTOS_API nostos_status nostos_request_set_real(nostos_request* request, const char* field, double value,
                                                 nostos_error** error);
// Sets a list of numbers. Fields: sigmas.
NOSTOS_API nostos_status nostos_request_set_reals(nostos_request* request, const char* field, const double* values,
                                                  size_t count, nostos_error** error);
// The first image's; image i has seed + i. 42 where it is not set.
NOSTOS_API void nostos_request_set_seed(nostos_request* request, uint64_t seed);
// Adds an image. Fields: image (may come several times), mask_image, control_image.
NOSTOS_API nostos_status nostos_request_add_image(nostos_request* request, const char* field, nostos_image image,
                                                  nostos_error** error);
// The same with a PNG, JPEG or WebP file, which records of the drawing name.
NOSTOS_API nostos_status nostos_request_add_image_file(nostos_request* request, const char* field, const char* path,
                                                       nostos_error** error);
// Adds a LoRA, LoKr, LoHa or DoRA file, whose changes are multiplied by `scale`. The file is read when it is drawn
// with.
NOSTOS_API nostos_status nostos_request_add_lora(nostos_request* request, const char* path, double scale,
                                                 nostos_error** error);

// The thread that draws makes these calls, and waits for them. What is not 0 ends the drawing with NOSTOS_CANCELLED.
// They must not draw with the same pipeline. A null function takes the call back.
//
// `stage`: "load", "text", "encode", "denoise" or "decode".
typedef int (*nostos_stage_function)(void* user, const char* stage);
NOSTOS_API void nostos_request_on_stage(nostos_request* request, nostos_stage_function on_stage, void* user);
// After each step of each image, counted from 1 through all images of the request.
typedef int (*nostos_step_function)(void* user, int64_t step, int64_t steps, double step_ms);
NOSTOS_API void nostos_request_on_step(nostos_request* request, nostos_step_function on_step, void* user);
// What a step of image `index` predicts, roughly: one pixel for each latent pixel. Steps count from 1; the last has
// none, as have models whose parts take turns on the device. `preview` is good for the call alone. Previews change no
// bit.
typedef int (*nostos_preview_function)(void* user, int64_t index, int64_t step, nostos_image preview);
NOSTOS_API void nostos_request_on_preview(nostos_request* request, nostos_preview_function on_preview, void* user);
// Has the request's drawings end once `cancel` is set; null takes it back.
NOSTOS_API void nostos_request_set_cancel(nostos_request* request, const nostos_cancel* cancel);

NOSTOS_API void nostos_request_free(nostos_request* request);

// --- Drawing --------------------------------------------------------------------------------------------------------

// Draws the request's images, and returns when they are done. For a seed the bits are the same whatever the number of
// ranks and threads. On failure `*result` becomes null; but for NOSTOS_DEVICE_LOST and NOSTOS_PEER_FAILED the pipeline
// can go on.
NOSTOS_API nostos_status nostos_generate(nostos_pipeline* pipeline, const nostos_request* request,
                                         nostos_result** result, nostos_error** error);

// --- Results: a drawing's images, with an `index` from 0 ------------------------------------------------------------

NOSTOS_API int64_t nostos_result_count(const nostos_result* result);
// Of an index that is out of range: `rgb` is null, the seed 0, the record and the latents null.
NOSTOS_API nostos_image nostos_result_image(const nostos_result* result, int64_t index);
NOSTOS_API uint64_t nostos_result_seed(const nostos_result* result, int64_t index);
// Returns a JSON object with everything that decides the image, as PNGs of nostos carry it.
NOSTOS_API const char* nostos_result_record(const nostos_result* result, int64_t index);
// Returns the state before decoding, float32 [1, channels, height, width] in that order. \param shape becomes the four.
NOSTOS_API const float* nostos_result_latents(const nostos_result* result, int64_t index, int64_t shape[4]);
// Returns a JSON object on the whole drawing: request, drawn_height, drawn_width, prompt_truncated,
// negative_prompt_truncated, warnings, report (stages, step_ms, bytes, ranks), as `nostos generate --json` says it.
NOSTOS_API const char* nostos_result_report(const nostos_result* result);
// Writes an image file with its record: the bytes that `nostos generate` writes. PNG, JPEG or WebP by the extension.
// What `path` was stays until the whole file is there.
NOSTOS_API nostos_status nostos_result_write(const nostos_result* result, int64_t index, const char* path,
                                             nostos_error** error);
// The same bytes in memory. \param format "png", "jpeg" or "webp" \param bytes to be freed with nostos_bytes_free()
NOSTOS_API nostos_status nostos_result_encode(const nostos_result* result, int64_t index, const char* format,
                                              uint8_t** bytes, size_t* size, nostos_error** error);
NOSTOS_API void nostos_bytes_free(uint8_t* bytes);
NOSTOS_API void nostos_result_free(nostos_result* result);

#ifdef __cplusplus
}
#endif

#endif
