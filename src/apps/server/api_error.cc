// Implements the shapes of errors.
#include "apps/server/api_error.h"

#include <nlohmann/json.hpp>

#include "io/json_text.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

HttpResponse answer(const ApiError& error, const ordered_json& body) {
  HttpResponse response{.status = error.status, .body = json_line(body)};
  if (error.retry_after_s > 0) response.headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer realm=\"nostos\"");
  return response;
}

ordered_json text_or_null(const std::string& text) { return text.empty() ? ordered_json() : ordered_json(text); }

}  // namespace

HttpResponse openai_error(const ApiError& error) {
  return answer(error, {{"error",
                         {{"message", error.what()},
                          {"type", error.type},
                          {"param", text_or_null(error.param)},
                          {"code", text_or_null(error.code)}}}});
}

HttpResponse a1111_error(const ApiError& error) {
  return answer(error, {{"error", error.type}, {"detail", error.what()}, {"body", ""}, {"errors", error.what()}});
}

HttpResponse error_answer(std::string_view path, const ApiError& error) {
  return path.starts_with("/sdapi/") ? a1111_error(error) : openai_error(error);
}

ApiError listener_error(int status, const std::string& message) {
  if (status == 503) return overloaded("too_many_connections", message, 1);
  return {status, "invalid_request_error", message};
}

}  // namespace nostos::server
