// Implements exit codes and internal checks.
#include "base/error.h"

namespace nostos {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_input:
    case ErrorKind::model:
    case ErrorKind::device:
      return 2;
    case ErrorKind::out_of_memory:
      return 3;
    case ErrorKind::peer_failed:
      return 4;
    case ErrorKind::cancelled:
      return 130;
    case ErrorKind::device_lost:
    case ErrorKind::internal:
      break;
  }
  return 1;
}

bool ends_process(ErrorKind kind) { return kind == ErrorKind::device_lost || kind == ErrorKind::peer_failed; }

void check(bool condition, const char* what, const char* file, int line, const char* function) {
  if (!condition) fail(ErrorKind::internal, "internal error: {} ({}:{} in {})", what, file, line, function);
}

}  // namespace nostos
