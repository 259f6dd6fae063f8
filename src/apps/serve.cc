// Implements the command `serve`: a server's flags, its model, and the ranks that draw under it.
#include "apps/serve.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/model_places.h"
#include "apps/cli/flags.h"
#include "apps/cli/gpu_choice.h"
#include "apps/cli/ranks.h"
#include "apps/dealt_ranks.h"
#include "apps/server/access.h"
#include "apps/server/json_log.h"
#include "apps/server/lora_folder.h"
#include "apps/server/server.h"
#include "base/error.h"
#include "base/log.h"
#include "io/utf8.h"
#include "pipeline/engine.h"
#include "pipeline/record.h"
#include "scheduling/policy.h"

namespace nostos {
namespace {

using namespace cli;

struct ServeFlags {
  CommonFlags common;
  EngineFlags engine;
  ModelFlags model;
  std::string model_path, served_model_name, synthetic;
  std::string host = "127.0.0.1";
  uint16_t port = 30000;
  std::string data_dir = "nostos-data";
  std::string api_key_file;
  bool allow_remote_without_key = false;
  std::vector<std::string> allow_origins;
  bool trust_client_id = false;
  int64_t queue = 64;
  double keep_days = 0;
  int64_t keep_pictures = 100'000;
  uint64_t keep_bytes = uint64_t{100} << 30;
  int64_t max_pixels = int64_t{2048} * 2048;
  double shutdown_grace_s = 20;
  std::string lora_dir;
  std::string policy;
  std::string client_defaults;
};

/// \return a check that refuses a size below zero, which CLI11 would take for an enormous one.
CLI::Validator starts_with_digit() {
  return CLI::Validator(
      [](const std::string& text) {
        const bool is_number = !text.empty() && text[0] >= '0' && text[0] <= '9';
        return is_number ? std::string() : fmt::format("'{}' is no size; give one as 500MB, or 0", text);
      },
      "");
}

constexpr size_t kMaxNameBytes = 256;

/// \return a check of a name that stands in URLs, lists and one line of text.
CLI::Validator printable() {
  const auto check = [](const std::string& text) -> std::string {
    const bool is_name =
        !text.empty() && text.size() <= kMaxNameBytes && text != "." && text != ".." && is_one_line(text);
    return is_name ? "" : fmt::format("must be a text of one line and at most {} bytes, not . or ..", kMaxNameBytes);
  };
  return {check, ""};
}

/// \return a check of the name of a policy.
CLI::Validator policy_name() {
  const auto check = [](const std::string& text) -> std::string {
    try {
      scheduling::parse_policy(text);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  return {check, ""};
}

void add_limit_flags(CLI::App& command, ServeFlags& flags) {
  command.add_option("--queue", flags.queue, "jobs that may wait; more get 503 (64)")
      ->transform(whole_number<int64_t>(1, 10'000));
  command.add_option("--keep-days", flags.keep_days, "days after which ended jobs are forgotten; 0: never (0)")
      ->check(number_in(0, 1e6));
  command
      .add_option("--keep-pictures", flags.keep_pictures,
                  "pictures beyond which the oldest jobs are forgotten; 0: no limit (100000)")
      ->transform(whole_number<int64_t>(0, int64_t{1} << 40));
  command
      .add_option("--keep-bytes", flags.keep_bytes,
                  "bytes of pictures, also as 500MB, beyond which the oldest jobs are forgotten; 0: no limit (100GB)")
      ->transform(CLI::AsSizeValue(false))
      ->transform(starts_with_digit());  // goes first
  command.add_option("--max-pixels", flags.max_pixels, "width times height that a client may ask for (4194304)")
      ->transform(whole_number<int64_t>(1, int64_t{1} << 40));
  command
      .add_option("--shutdown-grace", flags.shutdown_grace_s,
                  "seconds that the picture being drawn has to end on SIGTERM, before it returns to the queue (20)")
      ->check(number_in(0, 86'400));
}

void add_flags(CLI::App& command, ServeFlags& flags) {
  auto* model =
      command.add_option("--model-path", flags.model_path, model_path_help("the small model that comes with nostos"));
  command
      .add_option(
          "--synthetic", flags.synthetic,
          "serve random weights for the configs of this folder, or of a name as bench has them: to measure loads")
      ->excludes(model);
  command
      .add_option("--served-model-name", flags.served_model_name,
                  "what the model is called in lists and pictures (the last part of its path or name)")
      ->check(printable());
  command.add_option("--host", flags.host, "address to listen on (127.0.0.1)")->check(not_empty());
  command.add_option("--port", flags.port, "port to listen on; 0: any free one (30000)")
      ->transform(whole_number<int64_t>(0, 65'535));
  command.add_option("--data-dir", flags.data_dir, "folder of the job database and pictures (nostos-data)")
      ->check(not_empty());
  command.add_option("--api-key-file", flags.api_key_file, "file with the key that clients must send");
  command.add_flag("--allow-remote-without-key", flags.allow_remote_without_key, "let other machines in without a key");
  command
      .add_option("--allow-origin", flags.allow_origins,
                  "origin whose pages may use the APIs, as http://localhost:3000; may come several times")
      ->type_name("ORIGIN")
      ->allow_extra_args(false)
      ->check(not_empty());
  command.add_flag("--trust-client-id", flags.trust_client_id,
                   "take turns by X-Client-Id, which a proxy in front sets, in place of the address");
  command
      .add_option("--lora-dir", flags.lora_dir,
                  "folder of LoRA, LoKr, LoHa and DoRA files that clients may name; without it they may name none")
      ->check(CLI::ExistingDirectory);
  command
      .add_option("--policy", flags.policy,
                  "how GPUs are dealt to jobs, which are then drawn beside one another: latency, throughput or auto; "
                  "without it all of them draw one job after the other")
      ->check(policy_name());
  command
      .add_option("--client-defaults", flags.client_defaults,
                  "keep: clients of OpenAI's and A1111's APIs get the steps and guidance that they ask for; clamp: no "
                  "more than the model's own (clamp for a model whose own guidance is 0, else keep)")
      ->check(CLI::IsMember({"keep", "clamp"}));
  add_limit_flags(command, flags);
  add_model_flags(command, flags.model);
  add_engine_flags(command, flags.engine);
  add_common_flags(command, flags.common);
}

/// Draws with all processes of a launcher: the root tells the others what, and at the end to stop.
class SharedDrawing {
 public:
  SharedDrawing(Engine& engine, const Processes& processes) : engine_(engine), processes_(processes) {}

  std::vector<Generation> draw(std::span<const GenerationRequest> requests, std::span<const Progress> progress) const {
    if (processes_.communicator() == nullptr) return engine_.generate(requests, progress);
    processes_.from_root([&requests] {
      std::vector<std::string> records;
      for (const GenerationRequest& request : requests)
        records.push_back(to_json(DrawingRecord{.request = request, .model_path = {}}));
      return nlohmann::json(records).dump();
    });
    // Ranks in other processes do not see the flags, and one alone must not leave a drawing.
    std::vector<Progress> shared(progress.begin(), progress.end());
    for (Progress& one : shared) one.cancel_together = std::exchange(one.cancel, nullptr);
    return engine_.generate(requests, shared);
  }

  /// What processes other than the root do until finish(). Signals, which launchers send to all, are the root's to
  /// heed.
  void follow() const {
    std::signal(SIGTERM, SIG_IGN);
    std::signal(SIGINT, SIG_IGN);
    for (;;) {
      const std::string records = processes_.from_root([] { return std::string(); });
      if (records.empty()) return;
      std::vector<GenerationRequest> requests;
      for (const std::string record : nlohmann::json::parse(records))
        requests.push_back(parse_drawing_record(record, "the request of rank 0").request);
      try {
        engine_.generate(requests);
      } catch (const Error& error) {
        // A request that cannot be drawn (of a job that waited for a server with other flags) is refused by every rank
        // before any has sent the others a word of it, and one that gives values that are no numbers when all have told
        // each other; a drawing that is cancelled ends on all in the same step.
        if (error.kind() != ErrorKind::cancelled && error.kind() != ErrorKind::invalid_input) throw;
      }
    }
  }

  void finish() const {
    if (processes_.communicator() != nullptr) processes_.from_root([] { return std::string(); });
  }

 private:
  Engine& engine_;
  const Processes& processes_;
};

constexpr int64_t kMeasuredSteps = 4;                   // the first prepares kernels
constexpr size_t kKeptCaptionBytes = size_t{32} << 20;  // some 30 prompts of 64 tokens of Z-Image-Turbo

/// The smallest drawing, so that the first client does not wait for what is prepared once. \param guided whether ranks
/// cannot draw without guidance
GenerationRequest warm_up_request(const ModelLimits& limits, bool guided) {
  GenerationRequest request;
  request.prompt = "warm-up";
  request.height = request.width = 4 * limits.size_multiple;
  request.num_inference_steps = 1;
  request.guidance_scale = guided ? std::max(limits.default_guidance_scale, 1.0) : limits.default_guidance_scale;
  return resolve(request, limits).request;
}

server::ServerOptions server_options(const ServeFlags& flags) {
  server::ServerOptions options;
  options.host = flags.host;
  options.port = flags.port;
  options.data_dir = flags.data_dir;
  if (!flags.api_key_file.empty()) options.api_key = server::read_api_key(flags.api_key_file);
  options.allow_remote_without_key = flags.allow_remote_without_key;
  for (const std::string& origin : flags.allow_origins)
    options.allowed_origins.push_back(server::read_allowed_origin(origin));
  options.trusts_client_ids = flags.trust_client_id;
  options.queue_limit = static_cast<size_t>(flags.queue);
  options.keep = {.days = flags.keep_days, .pictures = flags.keep_pictures, .bytes = flags.keep_bytes};
  options.shutdown_grace = std::chrono::milliseconds(static_cast<int64_t>(flags.shutdown_grace_s * 1000));
  return options;
}

/// \return the LoRAs that clients may name, or null. It reads them for the engine's model, and may outlive the engine.
std::shared_ptr<server::LoraFolder> lora_folder(const ServeFlags& flags, const Engine& engine) {
  if (flags.lora_dir.empty()) return nullptr;
  const auto read = [files = engine.adapter_files()](const std::filesystem::path& file) {
    const AdapterFile found = files->read({.name = file.stem().string(), .file = file.string()});
    return server::LoraFacts{.sha256 = found.sha256, .summary = found.adapter->report.summary()};
  };
  return std::make_shared<server::LoraFolder>(flags.lora_dir, read);
}

/// \return what becomes of settings that clients send for other models. \throws Error invalid_input
server::ClientDefaults client_defaults(const ServeFlags& flags, const ModelLimits& limits, bool wants_guidance) {
  using server::ClientDefaults;
  if (flags.client_defaults.empty())
    return wants_guidance ? ClientDefaults::keep : server::usual_client_defaults(limits);
  if (flags.client_defaults == "keep") return ClientDefaults::keep;
  require(!wants_guidance || guides(limits.guidance, limits.default_guidance_scale), ErrorKind::invalid_input,
          "--client-defaults clamp would switch guidance off, which --cfg-parallel-degree 2 draws with: say keep");
  return ClientDefaults::clamp;
}

/// \param options with which the engine was made
server::LoadedModel loaded_model(const ServeFlags& flags, const EngineOptions& options, const Engine& engine) {
  server::LoadedModel model;
  const std::string& transformer = flags.model.parts.transformer;
  const std::string& named = flags.synthetic.empty() ? flags.model_path : flags.synthetic;
  const ModelLabel label = model_label(transformer.empty() ? named : transformer);
  const std::string& served = flags.served_model_name;
  model.name = served.empty() ? label.shown : served;
  model.full_name = served.empty() ? label.full : served;
  model.device = flags.engine.device == "auto" ? to_string(options.device) : flags.engine.device;
  model.ranks = options.parallelism.ranks();
  model.limits = {.model = engine.limits(),
                  .max_pixels = flags.max_pixels,
                  .wants_guidance = options.parallelism.cfg > 1,
                  .model_path = flags.model.named(flags.model_path),
                  .parts = flags.model.parts,
                  .model_name = model.name,
                  .precision = engine.precision_name(),
                  .text_precision = flags.engine.text_precision,
                  .attention_precision = flags.engine.attention_precision,
                  .variant = flags.model.variant,
                  .loras = lora_folder(flags, engine),
                  .client_defaults = client_defaults(flags, engine.limits(), options.parallelism.cfg > 1)};
  return model;
}

void serve(const ServeFlags& flags, const Processes& processes) {
  require(processes.communicator() == nullptr || flags.engine.comm_timeout_s == 0, ErrorKind::invalid_input,
          "--comm-timeout would give up ranks that wait for a client: leave it out");
  std::unique_ptr<server::Server> server;
  if (processes.is_root()) server = std::make_unique<server::Server>(server_options(flags));
  EngineOptions options = engine_options(flags.engine, processes);
  options.lanes = !flags.policy.empty();
  if (options.lanes) use_all_gpus(flags.engine, processes, options);
  options.kept_caption_bytes = kKeptCaptionBytes;
  options.synthetic = !flags.synthetic.empty();
  options.model = options.synthetic ? synthetic_model(flags.synthetic)
                                    : model_files(flags.model.named(flags.model_path), flags.model.parts);
  options.variant = flags.model.variant;
  Engine engine(options, processes.communicator());
  processes.require_same_precision(engine.precision_name());
  const SharedDrawing drawing(engine, processes);
  if (!processes.is_root()) return drawing.follow();

  const GenerationRequest first = warm_up_request(engine.limits(), options.parallelism.cfg > 1);
  server::EngineCalls calls;
  if (options.lanes) {
    calls = dealt_calls(scheduling::parse_policy(flags.policy), engine, read_model_shape(options.model));
    warm_up_lanes(first, options.device.kind != DeviceKind::cpu, engine, calls);
  } else {
    warm_up(first, [&](auto requests, auto progress) { return drawing.draw(requests, progress); });
    calls.draw = [&drawing](std::span<const GenerationRequest> requests, std::span<const Progress> progress,
                            const Lane& /*all ranks*/,
                            const LaneChange& /*none*/) { return drawing.draw(requests, progress); };
    calls.pictures_at_once = [&engine](const GenerationRequest& request) { return engine.pictures_at_once(request); };
  }
  calls.takes_together = [&engine](const GenerationRequest& a, const GenerationRequest& b) {
    return engine.takes_together(a, b);
  };
  server->run(loaded_model(flags, options, engine), calls);
  drawing.finish();
}

}  // namespace

void add_serve_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("serve", "Answer HTTP: OpenAI's and A1111's APIs, jobs, and a page");
  auto flags = std::make_shared<ServeFlags>();
  add_flags(*command, *flags);
  command->callback([command, flags] {
    server::hold_end_signals();
    set_log_writer([](LogLevel level, std::string_view message) {
      server::log_json(level, message, nlohmann::ordered_json::object());
    });
    run_processes(*command, flags->common, flags->engine,
                  [&](const Processes& processes) { serve(*flags, processes); });
  });
}

}  // namespace nostos
