// nostos's C++ interface: nostos.h with owners, values and exceptions. C++20, this header alone; link the same library.
//
//   nostos::Pipeline pipeline({.model_path = "Tongyi-MAI/Z-Image-Turbo"});
//   nostos::Result drawn = pipeline.generate({.prompt = "A lion on a beach", .seed = 7});
//   drawn.write(0, "lion.png");
//
// What a field is called and means, docs/cli.md says of the flag of this name. A field that is left out has the model's
// default. Errors are thrown. nostos.h says which thread may use what, and how long what is good.
#ifndef NOSTOS_HPP
#define NOSTOS_HPP

#include <nostos.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace nostos {
inline namespace interface_0 {  // names of its own, beside those that the static library is made of

/// What every function throws that fails.
class Error : public std::runtime_error {
 public:
  Error(nostos_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  nostos_status status() const { return status_; }

 private:
  nostos_status status_;
};

/// A drawing ended because its Cancel was set.
class Cancelled : public Error {
 public:
  using Error::Error;
};

namespace detail {

template <auto free>
struct Free {
  template <class Handle>
  void operator()(Handle* handle) const {
    free(handle);
  }
};
template <class Handle, auto free>
using Owned = std::unique_ptr<Handle, Free<free>>;

/// Calls a function of nostos.h, whose last argument is the error. \throws Error
template <class Function, class... Args>
void call(const Function& function, Args... args) {
  nostos_error* raw = nullptr;
  const nostos_status status = function(args..., &raw);
  if (status == NOSTOS_OK) return;
  const Owned<nostos_error, nostos_error_free> error(raw);
  const std::string message = error ? nostos_error_message(error.get()) : "out of memory";
  if (status == NOSTOS_CANCELLED) throw Cancelled(status, message);
  throw Error(status, message);
}

/// \throws std::bad_alloc for null
template <class Handle>
Handle* made(Handle* handle) {
  if (handle == nullptr) throw std::bad_alloc();
  return handle;
}

}  // namespace detail

/// Pixels of somebody else: 8-bit RGB, row by row.
struct ImageView {
  std::span<const uint8_t> rgb;  ///< [height, width, 3]
  int64_t height = 0;
  int64_t width = 0;
};

/// An image of a request: a file, or pixels, which stay where they are until generate() has returned.
struct InputImage {
  InputImage(std::string path) : file(std::move(path)) {}  // a file's path is an image
  InputImage(const char* path) : file(path) {}
  InputImage(ImageView view) : pixels(view) {}

  std::string file{};
  ImageView pixels{};
};

/// LoRA, LoKr, LoHa or DoRA file, and what its changes are multiplied by.
struct Lora {
  std::string file;
  double scale = 1;
};

enum class LogLevel { debug, info, warning, error };

/// Which model, and where and how it runs.
struct Options {
  std::string model_path{}, revision{}, variant{};
  std::string transformer{}, text_encoder{}, vae{}, tokenizer{}, controlnet{};
  bool base_model = false;
  std::string device = "auto", memory = "auto";
  std::string precision = "auto", text_precision = "auto", attention_precision = "auto";
  std::optional<double> memory_limit{};  ///< GiB
  std::optional<int64_t> threads{}, num_gpus{}, ulysses_degree{}, ring_degree{}, cfg_parallel_degree{};
  std::string sp_plan = "token", exchange = "auto";
  double comm_timeout = 0;  ///< seconds
  bool allow_shared_gpu = false;
  std::optional<std::string> cache_dir{};  ///< see nostos_options_set_text()
  std::string models_dir{};                ///< likewise
  /// Is told what is logged; any thread may call it, several at once. What it throws is dropped.
  std::function<void(LogLevel level, const std::string& message)> on_log{};
  LogLevel log_level = LogLevel::info;  ///< the lowest that on_log is told of
};

/// What is drawn.
struct Request {
  std::string prompt{};
  std::string negative_prompt{};
  std::optional<int64_t> height{}, width{}, num_inference_steps{};
  std::optional<double> guidance_scale{}, cfg_normalization{}, cfg_truncation{};
  std::optional<uint64_t> seed{};
  std::optional<int64_t> num_outputs{}, max_sequence_length{};
  std::optional<std::string> rng{};
  std::vector<double> sigmas{};
  std::optional<std::string> latents{};  ///< file
  std::vector<InputImage> images{};
  std::optional<double> strength{};
  std::optional<InputImage> mask_image{};
  std::optional<double> mask_blur{};
  std::optional<std::string> image_fit{};
  std::optional<InputImage> control_image{};
  std::optional<double> control_scale{}, control_start{}, control_end{};
  std::optional<std::string> control_preprocessor{};
  std::vector<Lora> loras{};
};

/// Ends drawings from any thread. Copies are the same flag.
class Cancel {
 public:
  Cancel() : handle_(detail::made(nostos_cancel_new()), nostos_cancel_free) {}
  void set() const { nostos_cancel_set(handle_.get()); }
  bool is_set() const { return nostos_cancel_is_set(handle_.get()) != 0; }
  const nostos_cancel* handle() const { return handle_.get(); }

 private:
  std::shared_ptr<nostos_cancel> handle_;
};

/// What the drawing thread calls on the way; see nostos.h. What a function throws ends the drawing, and generate()
/// throws it on.
struct Progress {
  std::function<void(const char* stage)> on_stage{};
  std::function<void(int64_t step, int64_t steps, double step_ms)> on_step{};
  std::function<void(int64_t index, int64_t step, ImageView preview)> on_preview{};
};

/// A drawing's images.
class Result {
 public:
  explicit Result(nostos_result* handle) : handle_(handle) {}

  int64_t size() const { return nostos_result_count(handle_.get()); }
  /// The pixels live as long as the result. \throws std::out_of_range, as the functions below
  ImageView image(int64_t index) const {
    const nostos_image image = nostos_result_image(handle_.get(), checked(index));
    return {{image.rgb, static_cast<size_t>(image.height * image.width * 3)}, image.height, image.width};
  }
  uint64_t seed(int64_t index) const { return nostos_result_seed(handle_.get(), checked(index)); }
  /// \return a JSON object with everything that decides the image.
  std::string record(int64_t index) const { return nostos_result_record(handle_.get(), checked(index)); }
  /// \return the state before decoding. \param shape becomes [1, channels, height, width]
  std::span<const float> latents(int64_t index, int64_t (&shape)[4]) const {
    const float* values = nostos_result_latents(handle_.get(), checked(index), shape);
    return {values, static_cast<size_t>(shape[0] * shape[1] * shape[2] * shape[3])};
  }
  /// \return a JSON object on the whole drawing.
  std::string report() const { return nostos_result_report(handle_.get()); }
  /// Writes a PNG, JPEG or WebP by its extension, as `nostos generate` does. \throws Error
  void write(int64_t index, const std::string& path) const {
    detail::call(nostos_result_write, handle_.get(), index, path.c_str());
  }
  /// \return the same bytes. \param format "png", "jpeg" or "webp" \throws Error
  std::vector<uint8_t> encode(int64_t index, const std::string& format = "png") const {
    uint8_t* bytes = nullptr;
    size_t size = 0;
    detail::call(nostos_result_encode, handle_.get(), index, format.c_str(), &bytes, &size);
    const detail::Owned<uint8_t, nostos_bytes_free> owned(bytes);
    return {bytes, bytes + size};
  }

 private:
  int64_t checked(int64_t index) const {
    if (index < 0 || index >= size()) throw std::out_of_range("there is no image " + std::to_string(index));
    return index;
  }

  detail::Owned<nostos_result, nostos_result_free> handle_;
};

namespace detail {

using RequestHandle = Owned<nostos_request, nostos_request_free>;
using OptionsHandle = Owned<nostos_options, nostos_options_free>;

/// Sets fields of a request or of options; what is absent is left as it is.
template <class Handle, auto set_text, auto set_integer, auto set_real>
class Fields {
 public:
  explicit Fields(Handle* handle) : handle_(handle) {}

  void set(const char* field, const std::string& text) const {
    if (!text.empty()) call(set_text, handle_, field, text.c_str());
  }
  void set(const char* field, const std::optional<std::string>& text) const {
    if (text) call(set_text, handle_, field, text->c_str());
  }
  void set(const char* field, const std::optional<int64_t>& value) const {
    if (value) call(set_integer, handle_, field, *value);
  }
  void set(const char* field, const std::optional<double>& value) const {
    if (value) call(set_real, handle_, field, *value);
  }

 private:
  Handle* handle_;
};

inline OptionsHandle handle_of(const Options& options) {
  OptionsHandle handle(made(nostos_options_new()));
  const Fields<nostos_options, nostos_options_set_text, nostos_options_set_integer, nostos_options_set_real> fields(
      handle.get());
  fields.set("model_path", options.model_path);
  fields.set("revision", options.revision);
  fields.set("variant", options.variant);
  fields.set("transformer", options.transformer);
  fields.set("text_encoder", options.text_encoder);
  fields.set("vae", options.vae);
  fields.set("tokenizer", options.tokenizer);
  fields.set("controlnet", options.controlnet);
  fields.set("device", options.device);
  fields.set("precision", options.precision);
  fields.set("text_precision", options.text_precision);
  fields.set("attention_precision", options.attention_precision);
  fields.set("memory", options.memory);
  fields.set("memory_limit", options.memory_limit);
  fields.set("threads", options.threads);
  fields.set("num_gpus", options.num_gpus);
  fields.set("ulysses_degree", options.ulysses_degree);
  fields.set("ring_degree", options.ring_degree);
  fields.set("cfg_parallel_degree", options.cfg_parallel_degree);
  fields.set("sp_plan", options.sp_plan);
  fields.set("exchange", options.exchange);
  fields.set("comm_timeout", std::optional(options.comm_timeout));
  fields.set("base_model", std::optional<int64_t>(options.base_model));
  fields.set("allow_shared_gpu", std::optional<int64_t>(options.allow_shared_gpu));
  fields.set("cache_dir", options.cache_dir);
  fields.set("models_dir", options.models_dir);
  return handle;
}

inline RequestHandle handle_of(const Request& request) {
  RequestHandle handle(made(nostos_request_new()));
  const Fields<nostos_request, nostos_request_set_text, nostos_request_set_integer, nostos_request_set_real> fields(
      handle.get());
  fields.set("prompt", request.prompt);
  fields.set("negative_prompt", request.negative_prompt);
  fields.set("height", request.height);
  fields.set("width", request.width);
  fields.set("num_inference_steps", request.num_inference_steps);
  fields.set("guidance_scale", request.guidance_scale);
  fields.set("cfg_normalization", request.cfg_normalization);
  fields.set("cfg_truncation", request.cfg_truncation);
  if (request.seed) nostos_request_set_seed(handle.get(), *request.seed);
  fields.set("num_outputs", request.num_outputs);
  fields.set("max_sequence_length", request.max_sequence_length);
  fields.set("rng", request.rng);
  call(nostos_request_set_reals, handle.get(), "sigmas", request.sigmas.data(), request.sigmas.size());
  fields.set("latents", request.latents);
  const auto add = [&](const char* field, const InputImage& image) {
    if (image.file.empty()) {
      const ImageView& view = image.pixels;
      if (view.rgb.size() != static_cast<size_t>(view.height * view.width * 3))
        throw Error(NOSTOS_INVALID_INPUT, std::string(field) + " has not height * width * 3 bytes");
      call(nostos_request_add_image, handle.get(), field, nostos_image{view.rgb.data(), view.height, view.width});
    } else {
      call(nostos_request_add_image_file, handle.get(), field, image.file.c_str());
    }
  };
  for (const InputImage& image : request.images) add("image", image);
  fields.set("strength", request.strength);
  if (request.mask_image) add("mask_image", *request.mask_image);
  fields.set("mask_blur", request.mask_blur);
  fields.set("image_fit", request.image_fit);
  if (request.control_image) add("control_image", *request.control_image);
  fields.set("control_scale", request.control_scale);
  fields.set("control_start", request.control_start);
  fields.set("control_end", request.control_end);
  fields.set("control_preprocessor", request.control_preprocessor);
  for (const Lora& lora : request.loras) call(nostos_request_add_lora, handle.get(), lora.file.c_str(), lora.scale);
  return handle;
}

/// One drawing's calls: hands them on, and keeps what they throw, which must not reach the library.
class Calls {
 public:
  Calls(const Progress& progress, nostos_request* request) : progress_(progress) {
    if (progress.on_stage)
      nostos_request_on_stage(
          request,
          [](void* self, const char* stage) { return of(self).run([&](const Progress& to) { to.on_stage(stage); }); },
          this);
    if (progress.on_step)
      nostos_request_on_step(
          request,
          [](void* self, int64_t step, int64_t steps, double step_ms) {
            return of(self).run([&](const Progress& to) { to.on_step(step, steps, step_ms); });
          },
          this);
    if (progress.on_preview)
      nostos_request_on_preview(
          request,
          [](void* self, int64_t index, int64_t step, nostos_image preview) {
            const auto size = static_cast<size_t>(preview.height * preview.width * 3);
            return of(self).run([&](const Progress& to) {
              to.on_preview(index, step, {{preview.rgb, size}, preview.height, preview.width});
            });
          },
          this);
  }

  void rethrow() const {
    if (thrown_) std::rethrow_exception(thrown_);
  }

 private:
  static Calls& of(void* self) { return *static_cast<Calls*>(self); }
  template <class Work>
  int run(const Work& work) noexcept {
    try {
      work(progress_);
      return 0;
    } catch (...) {
      thrown_ = std::current_exception();
      return 1;
    }
  }

  const Progress& progress_;
  std::exception_ptr thrown_;
};

}  // namespace detail

/// A loaded model.
class Pipeline {
 public:
  /// Loads it. \throws Error
  explicit Pipeline(const Options& options) : log_(std::make_unique<Options>(options)) {
    const detail::OptionsHandle handle = detail::handle_of(options);
    if (options.on_log)
      nostos_options_on_log(handle.get(), static_cast<nostos_log_level>(options.log_level), log, log_.get());
    nostos_pipeline* opened = nullptr;
    detail::call(nostos_pipeline_open, static_cast<const nostos_options*>(handle.get()), &opened);
    handle_.reset(opened);
  }

  /// \return a JSON object, see nostos_pipeline_info().
  std::string info() const { return nostos_pipeline_info(handle_.get()); }

  /// Draws. Any number of threads may call it; they take turns. \throws Error, Cancelled, what a call of `progress`
  /// throws
  Result generate(const Request& request, const Progress& progress = {}) { return draw(request, progress, nullptr); }
  /// The same, until `cancel` is set.
  Result generate(const Request& request, const Progress& progress, const Cancel& cancel) {
    return draw(request, progress, &cancel);
  }

 private:
  static void log(void* user, nostos_log_level level, const char* message) {
    try {
      static_cast<const Options*>(user)->on_log(static_cast<LogLevel>(level), message);
    } catch (...) {  // must not reach the library
    }
  }

  Result draw(const Request& request, const Progress& progress, const Cancel* cancel) {
    const detail::RequestHandle handle = detail::handle_of(request);
    if (cancel != nullptr) nostos_request_set_cancel(handle.get(), cancel->handle());
    detail::Calls calls(progress, handle.get());
    nostos_result* result = nullptr;
    try {
      detail::call(nostos_generate, handle_.get(), static_cast<const nostos_request*>(handle.get()), &result);
    } catch (const Error&) {
      calls.rethrow();
      throw;
    }
    return Result(result);
  }

  std::unique_ptr<Options> log_;
  detail::Owned<nostos_pipeline, nostos_pipeline_free> handle_;
};

}  // namespace interface_0
}  // namespace nostos

#endif
