// Implements the report of errors.
#include "apps/cli/error_report.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <new>
#include <string>
#include <system_error>

#include "apps/cli/standard_streams.h"
#include "base/error.h"
#include "base/terminal.h"

namespace nostos::cli {
namespace {

int report(ErrorKind kind, const char* message) {
  write_error(fmt::format("error: {}\n", shown_message(message)));
  return exit_code(kind);
}

/// \return whether an error says that a path, which the user named, cannot be looked at.
bool is_of_a_path(const std::error_code& error) {
  return error == std::errc::permission_denied || error == std::errc::too_many_symbolic_link_levels ||
         error == std::errc::filename_too_long || error == std::errc::not_a_directory ||
         error == std::errc::no_such_file_or_directory;
}

}  // namespace

int report_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const CLI::ParseError& parse_error) {
    return report(ErrorKind::invalid_input, parse_error.what());
  } catch (const Error& known) {
    return report(known.kind(), known.what());
  } catch (const std::filesystem::filesystem_error& refused) {
    if (!is_of_a_path(refused.code())) return report(ErrorKind::internal, refused.what());
    const std::string message = fmt::format("cannot use '{}': {}", refused.path1().string(), refused.code().message());
    return report(ErrorKind::invalid_input, message.c_str());
  } catch (const std::bad_alloc&) {
    return report(ErrorKind::out_of_memory, "out of memory");
  } catch (const std::exception& unknown) {
    return report(ErrorKind::internal, unknown.what());
  } catch (...) {
    return report(ErrorKind::internal, "something was thrown that is no std::exception");
  }
}

}  // namespace nostos::cli
