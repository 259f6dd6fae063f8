// Owns the list of the commands that need no server; apps/serve.h has the other one.
#pragma once

namespace CLI {
class App;
}

namespace nostos::cli {

/// Each adds one command to `app`, which runs while `app` parses a command line that names it.
/// The commands throw Error and CLI::ParseError through CLI::App::parse().
void add_generate_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_convert_command(CLI::App& app);
void add_quantize_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_pull_command(CLI::App& app);

}  // namespace nostos::cli
