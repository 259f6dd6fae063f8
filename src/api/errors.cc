// Implements the errors of nostos.h.
#include <new>

#include "api/caught_error.h"
#include "api/handles.h"

namespace nostos::api {
namespace {

nostos_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_input:
      return NOSTOS_INVALID_INPUT;
    case ErrorKind::model:
      return NOSTOS_MODEL;
    case ErrorKind::device:
      return NOSTOS_DEVICE;
    case ErrorKind::device_lost:
      return NOSTOS_DEVICE_LOST;
    case ErrorKind::out_of_memory:
      return NOSTOS_OUT_OF_MEMORY;
    case ErrorKind::peer_failed:
      return NOSTOS_PEER_FAILED;
    case ErrorKind::cancelled:
      return NOSTOS_CANCELLED;
    case ErrorKind::internal:
      break;
  }
  return NOSTOS_INTERNAL;
}

}  // namespace

nostos_status keep_error(const std::exception_ptr& thrown, nostos_error** error) noexcept {
  try {
    const Error caught = caught_error(thrown);
    if (error != nullptr) *error = new nostos_error{status_of(caught.kind()), caught.what()};
    return status_of(caught.kind());
  } catch (...) {
    return NOSTOS_OUT_OF_MEMORY;  // not even the message has room
  }
}

}  // namespace nostos::api

extern "C" {

const char* nostos_version(void) { return NOSTOS_VERSION; }

nostos_status nostos_error_status(const nostos_error* error) { return error == nullptr ? NOSTOS_OK : error->status; }

const char* nostos_error_message(const nostos_error* error) { return error == nullptr ? "" : error->message.c_str(); }

void nostos_error_free(nostos_error* error) { delete error; }
}
