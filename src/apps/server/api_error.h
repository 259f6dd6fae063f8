// Owns how a request is refused: the status and the parts of the error that a client reads.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "apps/server/http.h"

namespace nostos::server {

/// A refusal. Thrown by handlers and by what they call; becomes an answer in the API's own shape.
class ApiError : public std::runtime_error {
 public:
  ApiError(int status, std::string type, const std::string& message, std::string param = {}, std::string code = {})
      : std::runtime_error(message),
        status(status),
        type(std::move(type)),
        param(std::move(param)),
        code(std::move(code)) {}

  int status;
  std::string type;   ///< OpenAI's class of error
  std::string param;  ///< the field at fault, or empty
  std::string code;   ///< or empty
  int retry_after_s = 0;
  std::string allowed{};  ///< of a 405: the methods that the path takes
};

/// Throws a 400 about `param` (empty: about the whole).
template <class... Args>
[[noreturn]] void refuse_field(const std::string& param, const std::string& code, fmt::format_string<Args...> format,
                               Args&&... args) {
  throw ApiError(400, "invalid_request_error", fmt::format(format, std::forward<Args>(args)...), param, code);
}

/// \return a 503 that says when to come again.
inline ApiError overloaded(const std::string& code, const std::string& message, int retry_after_s) {
  ApiError error(503, "overloaded_error", message, {}, code);
  error.retry_after_s = retry_after_s;
  return error;
}

/// \return a 507 that says why nothing can be stored.
inline ApiError insufficient_storage(const std::string& reason) {
  ApiError error(507, "insufficient_storage_error", "this server cannot store anything now: " + reason, {},
                 "unwritable");
  error.retry_after_s = 10;
  return error;
}

/// \return a 405 that says which methods the path takes, e.g. "POST, GET".
inline ApiError method_not_allowed(const std::string& allowed) {
  ApiError error(405, "invalid_request_error", "this path takes " + allowed, {}, "method_not_allowed");
  error.allowed = allowed;
  return error;
}

/// \return the refusal in OpenAI's shape.
HttpResponse openai_error(const ApiError& error);
/// \return the refusal in A1111's shape.
HttpResponse a1111_error(const ApiError& error);
/// \return the refusal in the shape of the API that `path` is of.
HttpResponse error_answer(std::string_view path, const ApiError& error);
/// \return the error type of what the listener itself refuses with `status`.
ApiError listener_error(int status, const std::string& message);

}  // namespace nostos::server
