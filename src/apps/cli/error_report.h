// Owns how an error becomes a line on standard error and an exit code.
#pragma once

#include <exception>

namespace nostos::cli {

/// Prints "error: " and the message. \return the program's exit code for it: see ErrorKind.
int report_error(const std::exception_ptr& error);

}  // namespace nostos::cli
