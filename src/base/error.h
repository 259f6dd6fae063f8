// Owns the one exception type of the program, its kinds and the exit codes they map to.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace nostos {

/// What went wrong, as far as a caller must know to react: it decides the exit code and later the HTTP status.
enum class ErrorKind {
  invalid_input,  ///< a request, flag or input file that the user can mend
  model,          ///< a model that is missing, damaged or of an unknown kind
  device,         ///< an unsupported or missing device
  device_lost,    ///< a device that failed and is lost to this process, which must be started again
  out_of_memory,  ///< host or device memory is exhausted
  peer_failed,    ///< another rank failed
  internal,       ///< a bug, a full disk
  cancelled,      ///< the user interrupted the work
};

/// \return the process exit code of `kind`: 2 for what the user can mend, 3 out of memory, 4 peer failed, 130
/// cancelled, else 1.
int exit_code(ErrorKind kind);

/// \return whether nothing that this process tries afterwards can succeed: its device is lost, or its ranks are.
bool ends_process(ErrorKind kind);

/// The one exception type thrown by nostos.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

/// Throws Error(kind, formatted message).
template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error(kind, formatted message) unless `condition` holds. For checks of input at the edges.
template <class... Args>
void require(bool condition, ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws an internal Error naming the place unless `condition` holds. For what only a bug in nostos can break.
/// The place comes from compiler builtins because clang 14 has no std::source_location.
void check(bool condition, const char* what, const char* file = __builtin_FILE(), int line = __builtin_LINE(),
           const char* function = __builtin_FUNCTION());

}  // namespace nostos
