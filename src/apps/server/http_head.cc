// Implements the reading of a request's head.
#include "apps/server/http_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/beast/core/string.hpp>

#include "apps/server/http_text.h"

namespace nostos::server {
namespace {

namespace http = boost::beast::http;
using boost::beast::iequals;

/// Fields that are read here and hold one value. A proxy before this server could have gone by the other of two.
constexpr std::array<std::string_view, 8> kSingle{"access-control-request-method",
                                                  "authorization",
                                                  "host",
                                                  "idempotency-key",
                                                  "if-range",
                                                  "origin",
                                                  "range",
                                                  "x-client-id"};

std::optional<Refusal> read_fields(const http::fields& fields, HttpRequest& request) {
  std::optional<Refusal> refusal;
  for (const auto& field : fields) {
    std::string name(field.name_string());
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const std::string value(field.value());
    const auto [known, is_new] = request.headers.try_emplace(name, value);
    if (is_new) continue;
    if (std::ranges::find(kSingle, name) != kSingle.end())
      refusal = {400, fmt::format("the header {} may come once", std::string_view(field.name_string()))};
    known->second += (name == "cookie" ? "; " : ", ") + value;
  }
  return refusal;
}

/// \return what keeps the body's length from being known, or from being read here.
std::optional<Refusal> check_framing(const http::request_header<>& head, const HttpRequest& request) {
  const bool is_new = head.version() >= 11;
  if (request.headers.contains("transfer-encoding")) {
    const std::string coding(request.header("transfer-encoding"));
    if (!is_new) return Refusal{400, "Transfer-Encoding belongs to HTTP/1.1, the request is of HTTP/1.0"};
    // Without chunked at its end nobody can tell where the body ends, though Content-Length may say so.
    const bool ends = coding.size() >= 7 && iequals(std::string_view(coding).substr(coding.size() - 7), "chunked");
    if (!iequals(coding, "chunked"))
      return Refusal{ends ? 501 : 400,
                     fmt::format("Transfer-Encoding \"{}\" is not read here; use chunked alone", coding)};
  }
  const std::string_view expectation = request.header("expect");
  if (is_new && !expectation.empty() && !iequals({expectation.data(), expectation.size()}, "100-continue"))
    return Refusal{417, "Expect knows 100-continue alone"};
  return std::nullopt;
}

}  // namespace

std::optional<Refusal> read_head(const http::request_header<>& head, HttpRequest& request) {
  request.method = std::string(head.method_string());
  if (auto refusal = read_fields(head, request)) return refusal;
  if (auto refusal = check_framing(head, request)) return refusal;
  const bool has_host = request.headers.contains("host");
  if (head.version() >= 11 && !has_host) return Refusal{400, "a request of HTTP/1.1 has one Host header"};
  const std::string_view host = request.header("host");
  if (!host.empty() && !parse_authority(host))
    return Refusal{400, "the Host header is no host: name, IPv4 address or [IPv6 address], and :port from 1 to 65535"};
  if (head.method() == http::verb::connect || head.method() == http::verb::unknown)
    return Refusal{501, "the method is unknown here; docs/api.md lists what each path takes"};
  if (!read_target({head.target().data(), head.target().size()}, request))
    return Refusal{400, "the request's path is not proper: it begins with / and is UTF-8 once %XX are decoded"};
  return std::nullopt;
}

}  // namespace nostos::server
