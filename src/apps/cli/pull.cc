// Owns `nostos pull`: a model from a Hugging Face hub into its cache.
#include "hub/pull.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "apps/cli/commands.h"
#include "apps/cli/flags.h"
#include "apps/cli/interrupt.h"
#include "apps/cli/progress_display.h"
#include "apps/cli/standard_streams.h"
#include "base/elapsed.h"
#include "base/log.h"
#include "io/model_folder.h"

namespace nostos::cli {
namespace {

struct PullFlags {
  CommonFlags common;
  std::string name, revision, variant;
  std::vector<std::string> files;
};

void log_plan(const PullPlan& plan) {
  const auto gb = [](uint64_t bytes) { return static_cast<double>(bytes) / 1e9; };
  log_info("commit {}: {} files, {:.2f} GB, of which {:.2f} GB are to be fetched", plan.commit, plan.files,
           gb(plan.bytes), gb(plan.missing));
}

void pull(CLI::App& command, const PullFlags& flags) {
  apply_common_flags(command, flags.common);
  const std::string name = flags.revision.empty() ? flags.name : with_revision(flags.name, flags.revision);
  PullOptions options{.model = parse_model_name(name), .wish = {flags.files, flags.variant}};
  options.place = hub_from_environment();
  options.cache = hugging_face_cache();
  const std::atomic<bool>& interrupted = catch_interrupts();
  options.is_interrupted = [&interrupted] { return interrupted.load(); };
  ProgressDisplay display(log_enabled(LogLevel::info));
  std::chrono::steady_clock::time_point start;
  uint64_t missing = 0;
  PullProgress progress;
  progress.on_plan = [&](const PullPlan& plan) {
    log_plan(plan);
    missing = plan.missing;
    start = std::chrono::steady_clock::now();
  };
  progress.on_bytes = [&](uint64_t done, uint64_t total) {
    const uint64_t fetched = done - std::min(done, total - missing);  // beside what an earlier pull has left
    display.on_bytes(done, total, static_cast<double>(fetched) * 1000 / std::max(ms_since(start), 1.0));
  };
  const PulledModel pulled = pull_model(options, progress);
  display.clear();
  if (pulled.files.empty()) print_output("{}\n", pulled.snapshot.string());
  for (const std::filesystem::path& file : pulled.files) print_output("{}\n", file.string());
}

}  // namespace

void add_pull_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "pull", "Fetch a model from a Hugging Face hub into the local cache, where --model-path finds it");
  auto flags = std::make_shared<PullFlags>();
  command->add_option("name", flags->name, "OWNER/NAME or OWNER/NAME@REVISION")->required()->check(not_empty());
  command->add_option("--revision", flags->revision, "branch, tag or commit (main)")->check(not_empty());
  command
      ->add_option("--variant", flags->variant,
                   "weights to fetch, e.g. fp16 for *.fp16.safetensors (the plain ones, else the only variant)")
      ->check(not_empty());
  command
      ->add_option("--file", flags->files,
                   "fetch this file, or all that match a pattern such as '*Q4_K_M.gguf', in place of the files that a "
                   "drawing needs; may come several times")
      ->take_all()
      ->allow_extra_args(false)
      ->check(not_empty());
  add_common_flags(*command, flags->common);
  command->callback([command, flags] { pull(*command, *flags); });
}

}  // namespace nostos::cli
