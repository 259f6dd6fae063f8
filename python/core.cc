// Owns the compiled part of the Python package: what nostos.hpp has, with NumPy's arrays and Python's functions. The
// package's own files make it pleasant to call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <nostos.hpp>
#include <optional>
#include <string>
#include <utility>

namespace nb = nanobind;

namespace {

using PixelArray = nb::ndarray<const uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;

/// An image of a request: a file's name, or an array that the caller keeps.
nostos::InputImage input_image(const nb::handle& given) {
  if (nb::isinstance<nb::str>(given)) return nb::cast<std::string>(given);
  const auto array = nb::cast<PixelArray>(given);
  return nostos::ImageView{{array.data(), array.size()},
                           static_cast<int64_t>(array.shape(0)),
                           static_cast<int64_t>(array.shape(1))};
}

/// A pipeline, with its log function beside it: what ends the pipeline has not the interpreter's lock. A drawing keeps
/// the pipeline when it is closed.
class Pipeline {
 public:
  Pipeline(nostos::Options options, nb::object log) : log_(std::move(log)) {
    if (!log_.is_none())
      options.on_log = [log = nb::handle(log_)](nostos::LogLevel level, const std::string& message) {
        const nb::gil_scoped_acquire lock;
        try {
          log(static_cast<int>(level), message);
        } catch (nb::python_error& error) {
          error.discard_as_unraisable("the log function of a nostos.Pipeline");
        }
      };
    const nb::gil_scoped_release unlocked;
    pipeline_ = std::make_shared<nostos::Pipeline>(options);
  }
  ~Pipeline() { close(); }
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  void close() {
    std::shared_ptr<nostos::Pipeline> closing = std::move(pipeline_);
    const nb::gil_scoped_release unlocked;
    closing.reset();
  }

  std::string info() const { return opened()->info(); }

  nostos::Result generate(const nostos::Request& request, const nb::object& on_stage, const nb::object& on_step,
                          const nb::object& on_preview, const nostos::Cancel& cancel) const {
    std::shared_ptr<nostos::Pipeline> pipeline = opened();
    nostos::Progress progress;
    if (!on_stage.is_none())
      progress.on_stage = [&](const char* stage) {
        const nb::gil_scoped_acquire lock;
        on_stage(stage);
      };
    progress.on_step = [&](int64_t step, int64_t steps, double step_ms) {
      const nb::gil_scoped_acquire lock;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();  // Ctrl-C
      if (!on_step.is_none()) on_step(step, steps, step_ms);
    };
    if (!on_preview.is_none())
      progress.on_preview = [&](int64_t index, int64_t step, nostos::ImageView preview) {
        const nb::gil_scoped_acquire lock;
        on_preview(index, step, copied(preview));
      };
    const nb::gil_scoped_release unlocked;
    nostos::Result drawn = pipeline->generate(request, progress, cancel);
    pipeline.reset();  // which may end it
    return drawn;
  }

 private:
  std::shared_ptr<nostos::Pipeline> opened() const {
    if (!pipeline_) throw nostos::Error(NOSTOS_INVALID_INPUT, "the pipeline is closed");
    return pipeline_;
  }

  /// \return an array with memory of its own.
  static nb::object copied(const nostos::ImageView& image) {
    auto* const pixels = new std::vector<uint8_t>(image.rgb.begin(), image.rgb.end());
    const nb::capsule owner(pixels, [](void* kept) noexcept { delete static_cast<std::vector<uint8_t>*>(kept); });
    const size_t shape[3] = {static_cast<size_t>(image.height), static_cast<size_t>(image.width), 3};
    return nb::cast(nb::ndarray<nb::numpy, uint8_t>(pixels->data(), 3, shape, owner));
  }

  nb::object log_;
  std::shared_ptr<nostos::Pipeline> pipeline_;
};

/// \return the pixels, which live as long as the result `self`.
nb::ndarray<nb::numpy, const uint8_t> image_array(nb::handle self, int64_t index) {
  const nostos::ImageView image = nb::cast<const nostos::Result&>(self).image(index);
  const size_t shape[3] = {static_cast<size_t>(image.height), static_cast<size_t>(image.width), 3};
  return {image.rgb.data(), 3, shape, self};
}

nb::ndarray<nb::numpy, const float> latents_array(nb::handle self, int64_t index) {
  int64_t extents[4] = {};
  const std::span<const float> values = nb::cast<const nostos::Result&>(self).latents(index, extents);
  size_t shape[4];
  std::copy(extents, extents + 4, shape);
  return {values.data(), 4, shape, self};
}

/// Raises the exception of nostos._errors that stands for a status.
void raise(const nostos::Error& error) {
  const nb::object made =
      nb::module_::import_("nostos._errors").attr("error_of")(static_cast<int>(error.status()), error.what());
  PyErr_SetObject(made.type().ptr(), made.ptr());
}

void bind_options(nb::module_& module) {
  using nostos::Options;
  nb::class_<Options>(module, "Options")
      .def(nb::init<>())
      .def_rw("model_path", &Options::model_path)
      .def_rw("revision", &Options::revision)
      .def_rw("variant", &Options::variant)
      .def_rw("transformer", &Options::transformer)
      .def_rw("text_encoder", &Options::text_encoder)
      .def_rw("vae", &Options::vae)
      .def_rw("tokenizer", &Options::tokenizer)
      .def_rw("controlnet", &Options::controlnet)
      .def_rw("base_model", &Options::base_model)
      .def_rw("device", &Options::device)
      .def_rw("precision", &Options::precision)
      .def_rw("text_precision", &Options::text_precision)
      .def_rw("attention_precision", &Options::attention_precision)
      .def_rw("memory", &Options::memory)
      .def_rw("memory_limit", &Options::memory_limit)
      .def_rw("threads", &Options::threads)
      .def_rw("num_gpus", &Options::num_gpus)
      .def_rw("ulysses_degree", &Options::ulysses_degree)
      .def_rw("ring_degree", &Options::ring_degree)
      .def_rw("cfg_parallel_degree", &Options::cfg_parallel_degree)
      .def_rw("sp_plan", &Options::sp_plan)
      .def_rw("exchange", &Options::exchange)
      .def_rw("comm_timeout", &Options::comm_timeout)
      .def_rw("allow_shared_gpu", &Options::allow_shared_gpu)
      .def_rw("cache_dir", &Options::cache_dir)
      .def_rw("models_dir", &Options::models_dir)
      .def_prop_rw(
          "log_level", [](const Options& options) { return static_cast<int>(options.log_level); },
          [](Options& options, int level) { options.log_level = static_cast<nostos::LogLevel>(level); });
}

void bind_request(nb::module_& module) {
  using nostos::Request;
  nb::class_<Request>(module, "Request")
      .def(nb::init<>())
      .def_rw("prompt", &Request::prompt)
      .def_rw("negative_prompt", &Request::negative_prompt)
      .def_rw("height", &Request::height)
      .def_rw("width", &Request::width)
      .def_rw("num_inference_steps", &Request::num_inference_steps)
      .def_rw("guidance_scale", &Request::guidance_scale)
      .def_rw("cfg_normalization", &Request::cfg_normalization)
      .def_rw("cfg_truncation", &Request::cfg_truncation)
      .def_rw("seed", &Request::seed)
      .def_rw("num_outputs", &Request::num_outputs)
      .def_rw("max_sequence_length", &Request::max_sequence_length)
      .def_rw("rng", &Request::rng)
      .def_rw("sigmas", &Request::sigmas)
      .def_rw("latents", &Request::latents)
      .def_rw("strength", &Request::strength)
      .def_rw("mask_blur", &Request::mask_blur)
      .def_rw("image_fit", &Request::image_fit)
      .def_rw("control_scale", &Request::control_scale)
      .def_rw("control_start", &Request::control_start)
      .def_rw("control_end", &Request::control_end)
      .def_rw("control_preprocessor", &Request::control_preprocessor)
      .def("add_image", [](Request& request, nb::handle image) { request.images.push_back(input_image(image)); })
      .def("set_mask_image", [](Request& request, nb::handle image) { request.mask_image = input_image(image); })
      .def("set_control_image", [](Request& request, nb::handle image) { request.control_image = input_image(image); })
      .def("add_lora", [](Request& request, const std::string& file, double scale) {
        request.loras.push_back({file, scale});
      });
}

}  // namespace

NB_MODULE(_core, module) {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const nostos::Error& error) {
      raise(error);
    }
  });
  module.attr("version") = nostos_version();
  bind_options(module);
  bind_request(module);
  nb::class_<nostos::Cancel>(module, "Cancel")
      .def(nb::init<>())
      .def("set", &nostos::Cancel::set)
      .def("is_set", &nostos::Cancel::is_set);
  nb::class_<nostos::Result>(module, "Result")
      .def("__len__", &nostos::Result::size)
      .def("seed", &nostos::Result::seed)
      .def("record", &nostos::Result::record)
      .def("report", &nostos::Result::report)
      .def("image", image_array)
      .def("latents", latents_array)
      .def("write",
           [](const nostos::Result& result, int64_t index, const std::string& path) {
             const nb::gil_scoped_release unlocked;
             result.write(index, path);
           })
      .def("encode", [](const nostos::Result& result, int64_t index, const std::string& format) {
        std::vector<uint8_t> bytes;
        {
          const nb::gil_scoped_release unlocked;
          bytes = result.encode(index, format);
        }
        return nb::bytes(bytes.data(), bytes.size());
      });
  nb::class_<Pipeline>(module, "Pipeline")
      .def(nb::init<nostos::Options, nb::object>(), nb::arg("options"), nb::arg("log").none())
      .def("close", &Pipeline::close)
      .def("info", &Pipeline::info)
      .def("generate", &Pipeline::generate, nb::arg("request"), nb::arg("on_stage").none(), nb::arg("on_step").none(),
           nb::arg("on_preview").none(), nb::arg("cancel"));
}
