// Implements the command line.
#include "apps/command_line.h"

#include <CLI/CLI.hpp>

#include "apps/cli/commands.h"
#include "apps/serve.h"
#include "apps/version.h"

namespace nostos {

void add_command_line(CLI::App& app) {
  app.description(
      "nostos draws pictures from text with Z-Image and FLUX.2-klein models, and edits pictures with the latter.");
  app.set_version_flag("--version", version_text(), "Print version, commit and features, and exit");
  app.require_subcommand(1);
  cli::add_generate_command(app);
  cli::add_pull_command(app);
  cli::add_inspect_command(app);
  cli::add_convert_command(app);
  cli::add_quantize_command(app);
  cli::add_bench_command(app);
  cli::add_plan_command(app);
  add_serve_command(app);
}

}  // namespace nostos
