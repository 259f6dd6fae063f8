// Owns the program's entry: the command line, and how errors become exit codes.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>

#include "apps/cli/commands.h"
#include "base/error.h"

namespace {

int report(nostos::ErrorKind kind, const char* message) {
  fmt::print(stderr, "error: {}\n", message);
  return nostos::exit_code(kind);
}

int run(int argc, char** argv) {
  using nostos::ErrorKind;
  CLI::App app("nostos draws pictures from text with Z-Image models.", "nostos");
  app.set_version_flag("--version", "nostos " NOSTOS_VERSION, "Print the version and exit");
  app.require_subcommand(1);
  nostos::cli::add_generate_command(app);
  nostos::cli::add_inspect_command(app);
  nostos::cli::add_bench_command(app);
  nostos::cli::add_plan_command(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return report(ErrorKind::invalid_input, error.what());
  } catch (const nostos::Error& error) {
    return report(error.kind(), error.what());
  } catch (const std::bad_alloc&) {
    return report(ErrorKind::out_of_memory, "out of memory");
  } catch (const std::exception& error) {
    return report(ErrorKind::internal, error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int code = run(argc, argv);
  const bool written = std::fflush(stdout) == 0;
  return written || code != 0 ? code : report(nostos::ErrorKind::internal, "standard output cannot be written");
}
