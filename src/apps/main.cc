// Owns the program's entry: the command line, and how errors become exit codes.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <exception>

#include "apps/cli/error_report.h"
#include "apps/cli/standard_streams.h"
#include "apps/command_line.h"
#include "parallel/nccl_link.h"

namespace {

int run(int argc, char** argv) {
  CLI::App app("", "nostos");
  nostos::add_command_line(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (...) {
    return nostos::cli::report_error(std::current_exception());
  }
}

}  // namespace

int main(int argc, char** argv) {
  nostos::cli::prepare_standard_streams();
  int code = run(argc, argv);
  if (code == 0) {
    try {
      nostos::cli::flush_output();
    } catch (...) {
      code = nostos::cli::report_error(std::current_exception());
    }
  }
  if (nostos::is_ending_a_link()) std::_Exit(code);
  return code;
}
