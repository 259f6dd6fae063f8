// Implements measuring and choosing.
#include "quantisation/quantise.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoints/conversion.h"
#include "checkpoints/part_types.h"
#include "families/part_files.h"
#include "families/registry.h"
#include "ops/capabilities.h"
#include "quantisation/image_difference.h"
#include "quantisation/layer_inputs.h"
#include "quantisation/trajectories.h"

namespace nostos {
namespace {

constexpr int64_t kMostRowsEach = 8, kRowsOfAll = 1024;

/// Tells what is done, and whether to go on.
class Work {
 public:
  explicit Work(const QuantisationProgress& progress) : progress_(progress) {}

  /// \param all that will be done; of drawings: how many there are
  void begin(const char* stage, int64_t all) {
    stage_ = stage;
    done_ = 0;
    all_ = all;
  }
  void done() { tell(all_); }
  Progress of_drawing() {
    Progress made;
    made.cancel = progress_.cancel;
    made.on_step = [this](int64_t, int64_t steps, double) { tell(steps * all_); };
    return made;
  }
  const std::atomic<bool>* cancel() const { return progress_.cancel; }

 private:
  void tell(int64_t all) {
    require(progress_.cancel == nullptr || !*progress_.cancel, ErrorKind::cancelled, "interrupted");
    ++done_;
    if (progress_.on_work) progress_.on_work(stage_, done_, all);
  }

  const QuantisationProgress& progress_;
  const char* stage_ = "";
  int64_t done_ = 0, all_ = 0;
};

/// Draws all images as they are without rounding. \param seen collects the inputs of layers
std::vector<Trajectory> draw_all(const QuantisationOptions& options, LayerInputs& seen, Work& work) {
  EngineOptions watched = options.engine;
  watched.input_watch = seen.watch();
  Engine engine(watched);
  std::vector<Trajectory> made;
  work.begin("draw", std::ssize(options.requests));
  for (const GenerationRequest& request : options.requests)
    made.push_back(follow(engine, request, work.of_drawing(), [&] { seen.next_group(); }));
  return made;
}

std::vector<LayerError> measure_layers(const QuantisationOptions& options, const LayerInputs& seen, Work& work) {
  const EngineOptions& engine = options.engine;
  const FamilyOptions family{.files = engine.model,
                             .synthetic = engine.synthetic,
                             .synthetic_format = engine.synthetic_format,
                             .synthetic_hostile = engine.synthetic_hostile,
                             .variant = engine.variant};
  const PartFiles files(family, transformer_kind(family));
  const PartTensors tensors = list_tensors(part_type(files.kind()), files.config());
  Context ctx(engine.device, engine.threads);
  work.begin("measure", std::ssize(seen.products()));
  return layer_errors(ctx, seen.products(), files.weight_reader(tensors.shapes), [&] { work.done(); });
}

void add_step(QuantisationReport& report, size_t step, const VelocityError& error, double weight) {
  if (report.steps.size() <= step) report.steps.resize(step + 1);
  StepErrors& of = report.steps[step];
  of.mean_cosine += weight * error.cosine;
  of.least_cosine = std::min(of.least_cosine, error.cosine);
  of.mean_relative += weight * error.relative;
  of.most_relative = std::max(of.most_relative, error.relative);
}

/// Draws all images anew with all layers rounded but `kept`.
void compare_drawings(const QuantisationOptions& options, const std::set<std::string>& kept,
                      const std::vector<Trajectory>& wanted, Work& work, QuantisationReport& report) {
  EngineOptions rounded = options.engine;
  rounded.precision = Precision::int8;
  rounded.kept_products = kept;
  Engine engine(rounded);
  work.begin("compare", 2 * std::ssize(wanted));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const GenerationRequest& request = options.requests[i];
    const std::vector<VelocityError> errors = compare_along(engine, request, wanted[i], work.of_drawing());
    for (size_t step = 0; step < errors.size(); ++step)
      add_step(report, step, errors[step], 1 / static_cast<double>(wanted.size()));
    const Image image = engine.generate(request, work.of_drawing()).pictures.at(0).image;
    report.images.push_back({request.prompt, psnr(image, wanted[i].image), ssim(image, wanted[i].image)});
  }
}

void write(const QuantisationOptions& options, const QuantisationReport& report, Work& work) {
  Int8FileOptions file{.files = options.engine.model, .variant = options.engine.variant, .output = options.output};
  for (const LayerError& layer : report.layers)
    if (!layer.is_kept) file.matrices.insert(layer.matrices.begin(), layer.matrices.end());
  file.texts[kReportText] = report_json(report);
  const auto on_plan = [&](int64_t tensors) { work.begin("write", tensors); };
  write_int8_transformer(file, on_plan, {[&](int64_t) { work.done(); }, work.cancel()});
}

}  // namespace

double QuantisationReport::mean_psnr() const {
  double sum = 0;
  for (const ImageError& image : images) sum += image.psnr;
  return sum / static_cast<double>(images.size());
}

double QuantisationReport::mean_ssim() const {
  double sum = 0;
  for (const ImageError& image : images) sum += image.ssim;
  return sum / static_cast<double>(images.size());
}

double QuantisationReport::least_cosine() const {
  double least = 1;
  for (const StepErrors& step : steps) least = std::min(least, step.least_cosine);
  return least;
}

QuantisationReport quantise(const QuantisationOptions& options, const QuantisationProgress& progress) {
  require(!options.requests.empty(), ErrorKind::invalid_input, "no prompts to measure with: give at least one");
  require(options.engine.parallelism.ranks() == 1, ErrorKind::invalid_input,
          "layers are measured on one rank, not on {}", options.engine.parallelism.ranks());
  require(options.engine.precision != Precision::int8, ErrorKind::invalid_input,
          "--precision int8 is what is measured: say what it is compared with, auto, bf16 or f32");
  require(options.output.empty() || !options.engine.synthetic, ErrorKind::invalid_input,
          "random weights are measured, not written: leave --output out");
  require(ops::capabilities(options.engine.device).int8_products, ErrorKind::device,
          "products of 8 bits want a GPU or a CPU with AVX-512 VNNI, and {} is neither: measure on another machine",
          to_string(options.engine.device));
  const auto drawings = std::ssize(options.requests);
  LayerInputs seen(std::clamp<int64_t>(kRowsOfAll / (8 * drawings), 1, kMostRowsEach));
  Work work(progress);
  QuantisationReport report{.max_layer_error = options.max_layer_error};
  const std::vector<Trajectory> wanted = draw_all(options, seen, work);
  report.layers = measure_layers(options, seen, work);
  const std::set<std::string> kept = keep_layers(report.layers, options.max_layer_error);
  compare_drawings(options, kept, wanted, work, report);
  if (!options.output.empty()) write(options, report, work);
  return report;
}

std::string report_json(const QuantisationReport& report) {
  using nlohmann::ordered_json;
  ordered_json layers = ordered_json::array(), steps = ordered_json::array(), images = ordered_json::array();
  for (const LayerError& layer : report.layers)
    layers.push_back({{"matrices", layer.matrices},
                      {"inputs", layer.in},
                      {"outputs", layer.out},
                      {"mean_error", layer.mean},
                      {"worst_error", layer.worst},
                      {"kept", layer.is_kept}});
  for (const StepErrors& step : report.steps)
    steps.push_back({{"mean_cosine", step.mean_cosine},
                     {"least_cosine", step.least_cosine},
                     {"mean_error", step.mean_relative},
                     {"worst_error", step.most_relative}});
  for (const ImageError& image : report.images)
    images.push_back({{"prompt", image.prompt}, {"psnr", image.psnr}, {"ssim", image.ssim}});
  const ordered_json all{{"version", NOSTOS_VERSION},
                         {"max_layer_error", report.max_layer_error},
                         {"layers", layers},
                         {"steps", steps},
                         {"images", images},
                         {"mean_psnr", report.mean_psnr()},
                         {"mean_ssim", report.mean_ssim()}};
  return all.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace nostos
