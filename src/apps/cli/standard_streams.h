// Owns how the commands write to standard output and standard error, which may be full, broken or closed.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace nostos::cli {

/// To be called before anything is opened. Descriptors 0 to 2 that are closed are opened such that reading from them or
/// writing to them fails, so that no file of the program gets their numbers. A pipe whose reader is gone fails
/// likewise, in place of ending the process.
void prepare_standard_streams();

/// Writes to standard output. What fails is told by flush_output().
void write_output(std::string_view text);

/// The same of a formatted text.
template <class... Args>
void print_output(fmt::format_string<Args...> format, Args&&... args) {
  write_output(fmt::format(format, std::forward<Args>(args)...));
}

/// Writes to standard error, all at once, so that the texts of several ranks do not mix. What cannot be written is
/// dropped: it tells of the work, and is not worth its loss.
void write_error(std::string_view text);

/// Writes out what write_output() has left in memory. \throws Error internal if any of it could not be written
void flush_output();

}  // namespace nostos::cli
