// Implements the report of errors.
#include "apps/cli/error_report.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "api/caught_error.h"
#include "apps/cli/standard_streams.h"
#include "base/terminal.h"

namespace nostos::cli {
namespace {

Error reported_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const CLI::ParseError& parse_error) {
    return {ErrorKind::invalid_input, parse_error.what()};
  } catch (...) {
    return caught_error(error);
  }
}

}  // namespace

int report_error(const std::exception_ptr& error) {
  const Error reported = reported_error(error);
  write_error(fmt::format("error: {}\n", shown_message(reported.what())));
  return exit_code(reported.kind());
}

}  // namespace nostos::cli
