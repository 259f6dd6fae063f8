// Fuzzes the head of a request: the input goes through Beast's parser as a connection's bytes do, then into a request
// that is asked who made it.
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "apps/server/access.h"
#include "apps/server/api_error.h"
#include "apps/server/http_head.h"
#include "base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos::server;
  boost::beast::http::request_parser<boost::beast::http::string_body> parser;
  parser.header_limit(16 << 10);
  boost::system::error_code error;
  parser.put(boost::asio::buffer(data, size), error);
  if (!parser.is_header_done()) return 0;
  HttpRequest request;
  if (read_head(parser.get(), request)) return 0;
  nostos::check(request.path == "*" || request.path.starts_with('/'), "a path begins with /");
  nostos::check(parser.chunked() == request.headers.contains("transfer-encoding"), "a body's end is known");
  static const std::vector<Origin> allowed{read_allowed_origin("http://localhost:3000")};
  const bool is_let_in_by_name = is_let_in(allowed, request);
  cross_origin_headers(allowed, request);
  if (is_preflight(request)) preflight_headers(request, "GET");
  try {
    check_key("a secret", request);
    check_host(false, request);
    check_origin(false, allowed, request);
  } catch (const ApiError& refusal) {
    nostos::check(refusal.status == 401 || refusal.status == 403, "who may not ask is told so");
  }
  if (is_let_in_by_name) check_origin(false, allowed, request);
  precondition(request, "\"a\"");
  asked_range(request, "\"a\"", 100);
  link_base(request);
  return 0;
}
